// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Mlp: linear layers with ReLU, or another activation, between them.  Answers to torchrec/modules/mlp.py MLP, where the activation follows
// the last layer too: ask for `.final_activation`.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/modules/linear.hpp>

namespace rookery {

/// What follows a layer, elementwise. silu is x s(x), also called swish.
enum class Activation { none, relu, sigmoid, tanh, silu, gelu };

/// What follows the last layer.
using FinalActivation = Activation;

/// The activation of x, of the same shape; where its gradient does not need x, in the memory of x.
inline at::Tensor activated(at::Tensor x, Activation activation) {
  switch (activation) {
    case Activation::relu: return x.relu_();
    case Activation::sigmoid: return x.sigmoid_();
    case Activation::tanh: return x.tanh_();
    case Activation::silu: return ops::silu(x);
    case Activation::gelu: return ops::gelu(x);
    case Activation::none: break;
  }
  return x;
}

struct MlpOptions {
  Activation activation = Activation::relu;            // after every layer but the last
  Activation final_activation = Activation::none;      // after the last
  bool bias = true;                                    // of every layer
  at::ScalarType gemm = at::kFloat;                    // of every layer but the last, as LinearOptions has it
};

/// in_features -> sizes[0] -> ... -> sizes.back(): `rk::Mlp{13, {64, 1}}`, `rk::Mlp{13, {64, 1}, {.activation = rk::Activation::tanh}}`.
struct Mlp {
  Mlp() = default;
  Mlp(std::int64_t in_features, const std::vector<std::int64_t>& sizes, FinalActivation final_activation = FinalActivation::none,
      at::ScalarType dtype = at::kFloat)
      : Mlp(in_features, sizes, MlpOptions{.final_activation = final_activation}, dtype) {}
  Mlp(std::int64_t in_features, const std::vector<std::int64_t>& sizes, MlpOptions options, at::ScalarType dtype = at::kFloat)
      : between(options.activation), final(options.final_activation) {
    for (const auto size : sizes) {
      const auto gemm = layers.size() + 1 < sizes.size() ? options.gemm : at::kFloat;
      layers.emplace_back(in_features, size, LinearOptions{.bias = options.bias, .gemm = gemm}, dtype);
      in_features = size;
    }
  }
  static constexpr auto members() { return rookery::members("layers", &Mlp::layers); }

  /// [B, in] -> [B, sizes.back()].
  at::Tensor operator()(const at::Tensor& input) const {
    auto x = input;                                                                          // [B, in]
    for (std::size_t i = 0; i < layers.size(); ++i)
      x = activated(layers[i](x), i + 1 < layers.size() ? between : final);                  // [B, sizes[i]]
    return x;
  }

  std::vector<Linear> layers;
  Activation between = Activation::relu;
  Activation final = Activation::none;
};

}  // namespace rookery
