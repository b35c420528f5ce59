// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Linear: x W^T + b.  Answers to torch.nn.Linear, with its default initial values' bounds.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parameter.hpp>

namespace rookery {

namespace detail {

/// Whether products of float32 matrices are faster through oneDNN: on AMD's processors with AVX-512, where MKL keeps to AVX2 and reaches
/// half of what they can.
inline bool has_fast_onednn() {
  static const bool fast = [] {
#if defined(__x86_64__)
    if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq")) return false;
    try {
      return ops::zeros({1, 1}, at::kFloat).to_mkldnn().defined();
    } catch (const std::exception&) {                         // a LibTorch without it
    }
#endif
    return false;
  }();
  return fast;
}

}  // namespace detail

/// Whether a processor multiplies matrices of bfloat16 faster than those of float32.
inline bool has_fast_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

struct LinearOptions {
  bool bias = true;
  at::ScalarType gemm = at::kFloat;      // at::kBFloat16: x, W, b and the product are rounded; parameters and gradients stay float32
};

/// An affine layer, declared by its widths; `{.bias = false}` leaves b out. Both weight and bias start even on +-1 / sqrt(in_features).
/// `{.gemm = at::kBFloat16}` computes in float32 on a processor without instructions for bfloat16.
struct Linear {
  Linear() = default;
  Linear(std::int64_t in_features, std::int64_t out_features, at::ScalarType dtype = at::kFloat)
      : Linear(in_features, out_features, LinearOptions(), dtype) {}
  Linear(std::int64_t in_features, std::int64_t out_features, LinearOptions options, at::ScalarType dtype = at::kFloat)
      : weight({out_features, in_features}, Uniform{}, in_features, dtype), gemm(options.gemm) {
    check<ConfigError>(in_features > 0 && out_features > 0, "Linear: ", in_features, " to ", out_features,
                       " features; both must be positive");
    check<ConfigError>(gemm == at::kFloat || (gemm == at::kBFloat16 && dtype == at::kFloat), "Linear: gemm ", c10::toString(gemm),
                       " of a layer of ", c10::toString(dtype), "; it is Float, or BFloat16 of a layer of Float");
    if (options.bias) bias.emplace(std::vector{out_features}, Uniform{}, in_features, dtype);
  }
  static constexpr auto members() { return rookery::members("weight", &Linear::weight, "bias", &Linear::bias); }

  /// [B, in] -> [B, out]. Errors: ShapeError when x is not `in` wide or not of the weight's dtype; ConfigError before placement.
  at::Tensor operator()(const at::Tensor& x) const {
    const auto& w = weight.tensor();                                                         // [out, in]
    check<ShapeError>(x.defined(), "Linear '", weight.name(), "': the input is an undefined tensor");
    check<ShapeError>(x.dim() > 0 && x.size(-1) == w.size(1), "Linear '", weight.name(), "': an input of shape ", x.sizes(), " for ",
                      w.size(1), " features");
    check<ShapeError>(x.scalar_type() == w.scalar_type(), "Linear '", weight.name(), "': an input of dtype ",
                      c10::toString(x.scalar_type()), " for a weight of ", c10::toString(w.scalar_type()),
                      "; convert the input, or declare the layer in its dtype");
    const auto b = bias ? ops::MaybeTensor(bias->tensor()) : ops::MaybeTensor();             // [out]
    if (gemm == at::kBFloat16 && (!x.is_cpu() || has_fast_bfloat16()))
      return ops::linear(x.to(gemm), w.to(gemm), b ? ops::MaybeTensor(b->to(gemm)) : b).to(w.scalar_type());   // [B, out]
    return prefers_onednn(x) ? ops::onednn_linear(x.to_mkldnn(), w, b).to_dense() : ops::linear(x, w, b);   // [B, out]
  }

  Parameter weight;                                                                          // [out, in]
  std::optional<Parameter> bias;                                                             // [out]
  at::ScalarType gemm = at::kFloat;

 private:
  /// Not where a call costs more than what it saves. A ReLU of oneDNN's would make NaN 0, so tensors are ordinary ones between layers.
  bool prefers_onednn(const at::Tensor& x) const {
    constexpr std::int64_t least = 1 << 22;                    // multiplications
    return x.dim() == 2 && x.is_cpu() && x.scalar_type() == at::kFloat && weight.numel() * x.size(0) >= least && detail::has_fast_onednn();
  }
};

}  // namespace rookery
