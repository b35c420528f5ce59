// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The one table of tolerances: how far a trained tensor may lie from what one process, or a float64 reference, gives.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

namespace rookery::cases {

/// Largest |a - b| over the largest |value| of either; 0 for empty tensors, infinite for tensors of different shapes or with NaN.
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) return infinite;
  if (a.numel() == 0) return 0;
  const auto left = a.detach().cpu().to(at::kDouble), right = b.detach().cpu().to(at::kDouble);
  const double gap = left.sub(right).abs().max().item<double>();
  const double scale = std::max(left.abs().max().item<double>(), right.abs().max().item<double>());
  if (gap == 0) return 0;
  return gap / scale < infinite ? gap / scale : infinite;  // NaN is not below
}

/// Distance of neighbouring numbers of float16 or bfloat16 at a magnitude.
inline double spacing(at::ScalarType dtype, double magnitude) {
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  return dtype == at::kHalf ? std::ldexp(1, std::max(exponent - 11, -24)) : std::ldexp(1, std::max(exponent - 8, -133));
}

/// `difference` of a float16 or bfloat16 tensor from what it was rounded from, less the most that one rounding adds: half a spacing to the
/// nearest, a whole one stochastically. What is left is what float32 arithmetic adds.
inline double difference_of_rounded(const at::Tensor& rounded, const at::Tensor& exact, bool stochastic) {
  const auto left = rounded.detach().to(at::kDouble).contiguous(), right = exact.detach().to(at::kDouble).contiguous();
  if (left.sizes() != right.sizes()) return std::numeric_limits<double>::infinity();
  double excess = 0, scale = 0;
  for (std::int64_t i = 0; i < left.numel(); ++i) {
    const double a = left.const_data_ptr<double>()[i], b = right.const_data_ptr<double>()[i];
    const double magnitude = std::max(std::abs(a), std::abs(b)), gap = std::abs(a - b);
    if (!std::isfinite(gap)) return std::numeric_limits<double>::infinity();
    excess = std::max(excess, gap - (stochastic ? 1 : .5) * spacing(rounded.scalar_type(), magnitude));
    scale = std::max(scale, magnitude);
  }
  return scale == 0 ? 0 : excess / scale;
}

/// What `difference` may be after `steps` steps, per tensor, state included. For Adam, LAMB and Adagrad with eps >= 1e-8.
/// Tables of float16 and bfloat16 compute in float32: the same holds for their state, and for their weights after
/// `difference_of_rounded` from a reference that starts each step at the rounded weights of the last.
inline double tolerance(at::ScalarType dtype, std::string_view rule = "sgd", int steps = 1) {
  if (dtype == at::kDouble) return 1e-11;
  const bool of_adam = rule.find("adam") != rule.npos || rule.find("lamb") != rule.npos;
  return of_adam ? 1e-3 : 1e-5 * std::max(steps, 1);
}

}  // namespace rookery::cases
