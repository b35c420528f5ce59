// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The reducers that come with the library: norms, mean, spread and largest value of a parameter, and the mean norm of its rows.
//
// All are exact over shards and sum in float64, so a row of large values does not overflow. They work in place on the chunk that they are
// given, which spares a copy.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>

#include <rookery/concepts/reducer.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

namespace detail {

/// What reducers share whose one number adds up.
struct AddsUp {
  static constexpr std::int64_t partial_size = 1;
  at::Tensor merge(const at::Tensor& partials) const { return partials.sum(0); }             // [m, 1] -> [1]
};

}  // namespace detail

/// sqrt(sum x^2), as torch.norm.
struct L2Norm : detail::AddsUp {
  static constexpr std::string_view name = "norm";
  static constexpr auto input = ReducerInput::elements;
  at::Tensor partial(const at::Tensor& x) const { return x.square_().sum().unsqueeze(0); }   // [1]
  double finish(std::span<const double> partial, std::int64_t) const { return std::sqrt(partial[0]); }
};

/// sum |x|
struct L1Norm : detail::AddsUp {
  static constexpr std::string_view name = "l1_norm";
  static constexpr auto input = ReducerInput::elements;
  at::Tensor partial(const at::Tensor& x) const { return x.abs_().sum().unsqueeze(0); }      // [1]
  double finish(std::span<const double> partial, std::int64_t) const { return partial[0]; }
};

/// sum x / n
struct Mean : detail::AddsUp {
  static constexpr std::string_view name = "mean";
  static constexpr auto input = ReducerInput::elements;
  at::Tensor partial(const at::Tensor& x) const { return x.sum().unsqueeze(0); }             // [1]
  double finish(std::span<const double> partial, std::int64_t n) const { return partial[0] / static_cast<double>(n); }
};

/// max |x|; NaN when there is one.
struct MaxAbs {
  static constexpr std::string_view name = "max_abs";
  static constexpr auto input = ReducerInput::elements;
  static constexpr std::int64_t partial_size = 1;
  at::Tensor partial(const at::Tensor& x) const { return x.abs_().amax().unsqueeze(0); }     // [1]
  at::Tensor merge(const at::Tensor& partials) const { return partials.amax(0); }            // [m, 1] -> [1]
  double finish(std::span<const double> partial, std::int64_t) const { return partial[0]; }
};

/// sqrt(sum (x - mean)^2 / (n - 1)), as torch.std; NaN for one element. Parts carry (n, mean, sum of squared deviations), so nothing
/// cancels where the mean is large (Chan, Golub and LeVeque 1979).
struct StandardDeviation {
  static constexpr std::string_view name = "std";
  static constexpr auto input = ReducerInput::elements;
  static constexpr std::int64_t partial_size = 3;
  at::Tensor partial(const at::Tensor& x) const {
    const auto mean = x.mean();                                                              // []
    return ops::stack({mean.new_full({}, x.numel()), mean, x.sub_(mean).square_().sum()});   // [3]
  }
  at::Tensor merge(const at::Tensor& partials) const {
    const auto n = partials.select(1, 0), mean = partials.select(1, 1);                      // [m]
    const auto whole = n.mul(mean).sum().div(n.sum());                                       // []
    const auto squares = partials.select(1, 2).sum().add(mean.sub(whole).square().mul(n).sum());   // []
    return ops::stack({n.sum(), whole, squares});                                            // [3]
  }
  double finish(std::span<const double> partial, std::int64_t n) const { return std::sqrt(partial[2] / static_cast<double>(n - 1)); }
};

/// The mean over rows of sqrt(sum of a row's x^2): of an embedding table, how long its vectors are. A parameter of fewer than two
/// dimensions is one row.
struct MeanRowNorm : detail::AddsUp {
  static constexpr std::string_view name = "mean_row_norm";
  static constexpr auto input = ReducerInput::row_squares;
  at::Tensor partial(const at::Tensor& squares) const { return squares.sqrt_().sum().unsqueeze(0); }   // [1]
  double finish(std::span<const double> partial, std::int64_t rows) const { return partial[0] / static_cast<double>(rows); }
};

}  // namespace rookery
