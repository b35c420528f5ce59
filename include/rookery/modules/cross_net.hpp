// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// CrossNet, LowRankCrossNet, VectorCrossNet: layers that multiply what they compute by the first input, so that l of them make
// products of up to l + 1 features.
//
// Deep and Cross: Wang et al. 2017, arXiv 1708.05123 (vector); DCN v2: Wang et al. 2020, arXiv 2008.13535 (full, low rank). Answer to
// torchrec/modules/crossnet.py, with its initial laws (Xavier normal, zero bias); biases are [D], not [D, 1].  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parameter.hpp>

namespace rookery {

namespace detail {

/// The law of Xavier and Bengio for a matrix [rows, columns].
inline Normal xavier_normal(std::int64_t rows, std::int64_t columns) { return {std::sqrt(2 / static_cast<double>(rows + columns))}; }

inline void check_cross(const char* who, std::int64_t features, std::int64_t count) {
  check<ConfigError>(features > 0 && count > 0, who, ": ", features, " features, ", count, " layers; both must be positive");
}
inline void check_cross_input(const char* who, const at::Tensor& x, std::int64_t features) {
  check<ShapeError>(x.dim() == 2 && x.size(1) == features, who, ": an input of shape ", x.sizes(), "; it must be [B, ", features, "]");
}

}  // namespace detail

/// x_{l+1} = x_0 * (W_l x_l + b_l) + x_l.
///
/// Shapes:  [B, D] -> [B, D].
/// Errors:  ShapeError for another width; ConfigError before placement.
/// Cost:    D^2 multiplications a row and layer.
struct CrossNet {
  CrossNet() = default;
  CrossNet(std::int64_t columns, std::int64_t count, at::ScalarType dtype = at::kFloat) : features(columns) {
    detail::check_cross("CrossNet", columns, count);
    for (std::int64_t l = 0; l < count; ++l) {
      kernels.emplace_back(std::vector{columns, columns}, detail::xavier_normal(columns, columns), 0, dtype);
      bias.emplace_back(std::vector{columns}, Zeros{}, 0, dtype);
    }
  }
  static constexpr auto members() { return rookery::members("kernels", &CrossNet::kernels, "bias", &CrossNet::bias); }

  at::Tensor operator()(const at::Tensor& input) const {
    detail::check_cross_input("CrossNet", input, features);
    auto x = input;                                                                          // [B, D]
    for (std::size_t l = 0; l < kernels.size(); ++l) x = input.mul(ops::linear(x, kernels[l].tensor(), bias[l].tensor())).add(x);
    return x;
  }

  std::vector<Parameter> kernels;                                                            // [D, D] each
  std::vector<Parameter> bias;                                                               // [D] each
  std::int64_t features = 0;
};

/// x_{l+1} = x_0 * (W_l (V_l x_l) + b_l) + x_l, where W_l V_l has rank r.
///
/// Shapes:  [B, D] -> [B, D].
/// Errors:  as CrossNet.
/// Cost:    2 r D multiplications a row and layer.
struct LowRankCrossNet {
  LowRankCrossNet() = default;
  LowRankCrossNet(std::int64_t columns, std::int64_t count, std::int64_t rank, at::ScalarType dtype = at::kFloat) : features(columns) {
    detail::check_cross("LowRankCrossNet", columns, count);
    check<ConfigError>(rank > 0, "LowRankCrossNet: rank ", rank, "; it must be positive");
    for (std::int64_t l = 0; l < count; ++l) {
      W_kernels.emplace_back(std::vector{columns, rank}, detail::xavier_normal(columns, rank), 0, dtype);
      V_kernels.emplace_back(std::vector{rank, columns}, detail::xavier_normal(rank, columns), 0, dtype);
      bias.emplace_back(std::vector{columns}, Zeros{}, 0, dtype);
    }
  }
  static constexpr auto members() {
    return rookery::members("W_kernels", &LowRankCrossNet::W_kernels, "V_kernels", &LowRankCrossNet::V_kernels, "bias",
                            &LowRankCrossNet::bias);
  }

  at::Tensor operator()(const at::Tensor& input) const {
    detail::check_cross_input("LowRankCrossNet", input, features);
    auto x = input;                                                                          // [B, D]
    for (std::size_t l = 0; l < bias.size(); ++l) {
      const auto inner = ops::linear(x, V_kernels[l].tensor());                              // [B, r]
      x = input.mul(ops::linear(inner, W_kernels[l].tensor(), bias[l].tensor())).add(x);     // [B, D]
    }
    return x;
  }

  std::vector<Parameter> W_kernels;                                                          // [D, r] each
  std::vector<Parameter> V_kernels;                                                          // [r, D] each
  std::vector<Parameter> bias;                                                               // [D] each
  std::int64_t features = 0;
};

/// x_{l+1} = x_0 <w_l, x_l> + b_l + x_l: the first version, whose layers have one vector.
///
/// Shapes:  [B, D] -> [B, D].
/// Errors:  as CrossNet.
/// Cost:    2 D multiplications a row and layer.
struct VectorCrossNet {
  VectorCrossNet() = default;
  VectorCrossNet(std::int64_t columns, std::int64_t count, at::ScalarType dtype = at::kFloat) : features(columns) {
    detail::check_cross("VectorCrossNet", columns, count);
    for (std::int64_t l = 0; l < count; ++l) {
      kernels.emplace_back(std::vector{columns}, detail::xavier_normal(columns, 1), 0, dtype);
      bias.emplace_back(std::vector{columns}, Zeros{}, 0, dtype);
    }
  }
  static constexpr auto members() { return rookery::members("kernels", &VectorCrossNet::kernels, "bias", &VectorCrossNet::bias); }

  at::Tensor operator()(const at::Tensor& input) const {
    detail::check_cross_input("VectorCrossNet", input, features);
    auto x = input;                                                                          // [B, D]
    for (std::size_t l = 0; l < kernels.size(); ++l)
      x = input.mul(x.matmul(kernels[l].tensor()).unsqueeze(1)).add(bias[l].tensor()).add(x);   // [B, D]
    return x;
  }

  std::vector<Parameter> kernels;                                                            // [D] each
  std::vector<Parameter> bias;                                                               // [D] each
  std::int64_t features = 0;
};

}  // namespace rookery
