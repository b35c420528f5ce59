// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// mean_loss and sum_loss: a plain callable as a loss.
//
// Answers to the-algorithm-ml's `loss_fn: Callable`.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

#include <rookery/core/operators.hpp>

namespace rookery {

/// A callable that gives the mean over this rank's rows; trained as the mean over the global batch.
template <class Fn> struct MeanLoss {
  Fn fn;
  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    const auto rows = static_cast<std::int64_t>(batch.size());
    auto mean = fn(output, batch);                                                           // []
    return rows == 0 ? mean.nan_to_num(0).mul(0) : mean.mul(rows);                           // []; the mean of no rows is not a number
  }
  template <class Batch> at::Tensor normaliser(const Batch& batch) const {
    return ops::scalar_tensor(static_cast<double>(batch.size()), at::kDouble);               // []
  }
};

/// A callable that gives a sum over this rank's rows; trained as the sum over the global batch, divided by nothing.
template <class Fn> struct SumLoss {
  static constexpr bool divides = false;
  Fn fn;
  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const { return fn(output, batch); }
};

/// Loss from `at::Tensor fn(const Output&, const Batch&)`, the mean over the rows given.
template <class Fn> MeanLoss<Fn> mean_loss(Fn fn) { return {std::move(fn)}; }
/// Loss from `at::Tensor fn(const Output&, const Batch&)`, the sum over the rows given.
template <class Fn> SumLoss<Fn> sum_loss(Fn fn) { return {std::move(fn)}; }

}  // namespace rookery
