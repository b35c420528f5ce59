// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LayerNorm: each row to mean 0 and variance 1, then a scale and a shift by column.
//
// Ba, Kiros, Hinton 2016, arXiv 1607.06450. Answers to torch.nn.LayerNorm over the last dimension.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parameter.hpp>

namespace rookery {

struct LayerNormOptions {
  double eps = 1e-5;                 // added to the variance; with 0 a row of equal numbers is not a number
  bool affine = true;                // scale and shift are trained; there are none otherwise
};

/// (x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension. Weight starts at 1, bias at 0.
struct LayerNorm {
  LayerNorm() = default;
  explicit LayerNorm(std::int64_t columns, LayerNormOptions options = {}, at::ScalarType dtype = at::kFloat)
      : features(columns), eps(options.eps) {
    check<ConfigError>(features > 0 && eps >= 0, "LayerNorm: ", features, " features, eps ", eps,
                       "; features must be positive and eps not negative");
    if (!options.affine) return;
    weight.emplace({features}, Zeros{}, 0, dtype);
    weight->assign(ops::ones({features}));
    bias.emplace({features}, Zeros{}, 0, dtype);
  }
  static constexpr auto members() { return rookery::members("weight", &LayerNorm::weight, "bias", &LayerNorm::bias); }

  /// [.., features] -> the same. Errors: ShapeError for another width; ConfigError before placement.
  at::Tensor operator()(const at::Tensor& x) const {
    check<ShapeError>(x.dim() > 0 && x.size(-1) == features, "LayerNorm: an input of shape ", x.sizes(), " for ", features, " features");
    if (!weight) return ops::layer_norm(x, {features}, {}, {}, eps);                         // [.., features]
    return ops::layer_norm(x, {features}, weight->tensor(), bias->tensor(), eps);            // [.., features]
  }

  std::optional<Parameter> weight, bias;                                                     // [features]
  std::int64_t features = 0;
  double eps = 1e-5;
};

}  // namespace rookery
