// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Mlp: linear layers with ReLU between them.  Answers to torchrec/modules/mlp.py MLP.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/relu.h>

#include <cstdint>
#include <vector>

#include <rookery/core/members.hpp>
#include <rookery/modules/linear.hpp>

namespace rookery {

/// What follows the last layer.
enum class FinalActivation { none, relu };

/// in_features -> sizes[0] -> ... -> sizes.back(), ReLU after every layer but, unless asked for, the last.
struct Mlp {
  Mlp() = default;
  Mlp(std::int64_t in_features, const std::vector<std::int64_t>& sizes, FinalActivation final_activation = FinalActivation::none,
      at::ScalarType dtype = at::kFloat)
      : final(final_activation) {
    for (const auto size : sizes) {
      layers.emplace_back(in_features, size, dtype);
      in_features = size;
    }
  }
  static constexpr auto members() { return rookery::members("layers", &Mlp::layers); }

  /// [B, in] -> [B, sizes.back()].
  at::Tensor operator()(const at::Tensor& input) const {
    auto x = input;                                                                          // [B, in]
    for (std::size_t i = 0; i < layers.size(); ++i) {
      x = layers[i](x);                                                                      // [B, sizes[i]]
      if (i + 1 < layers.size() || final == FinalActivation::relu) x = at::relu(x);
    }
    return x;
  }

  std::vector<Linear> layers;
  FinalActivation final = FinalActivation::none;
};

}  // namespace rookery
