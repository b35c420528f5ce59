// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Linear: x W^T + b.  Answers to torch.nn.Linear, with its default initial values' bounds.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>

#include <cstdint>
#include <optional>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>

namespace rookery {

/// An affine layer, declared by its widths. Both weight and bias start even on +-1 / sqrt(in_features).
struct Linear {
  Linear() = default;
  Linear(std::int64_t in_features, std::int64_t out_features, at::ScalarType dtype = at::kFloat)
      : weight({out_features, in_features}, Uniform{}, in_features, dtype), bias({out_features}, Uniform{}, in_features, dtype) {
    check<ConfigError>(in_features > 0 && out_features > 0, "Linear: ", in_features, " to ", out_features,
                       " features; both must be positive");
  }
  static constexpr auto members() { return rookery::members("weight", &Linear::weight, "bias", &Linear::bias); }

  /// [B, in] -> [B, out]. Errors: ShapeError when x is not `in` wide.
  at::Tensor operator()(const at::Tensor& x) const {
    check<ShapeError>(x.dim() > 0 && x.size(-1) == weight.shape()[1], "Linear: an input of shape ", x.sizes(), " for ", weight.shape()[1],
                      " features");
    return at::linear(x, weight.tensor(), bias.tensor());                                    // [B, out]
  }

  Parameter weight;                                                                          // [out, in]
  Parameter bias;                                                                            // [out]
};

}  // namespace rookery
