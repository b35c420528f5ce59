// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The one table of tolerances: how far a trained tensor may lie from what one process, or a float64 reference, gives.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <limits>
#include <string_view>

namespace rookery::cases {

/// Largest |a - b| over the largest |value| of either; 0 for empty tensors, infinite for tensors of different shapes or with NaN.
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) return infinite;
  if (a.numel() == 0) return 0;
  const auto left = a.detach().to(at::kDouble), right = b.detach().to(at::kDouble);
  const double gap = left.sub(right).abs().max().item<double>();
  const double scale = std::max(left.abs().max().item<double>(), right.abs().max().item<double>());
  if (gap == 0) return 0;
  return gap / scale < infinite ? gap / scale : infinite;  // NaN is not below
}

/// What `difference` may be after `steps` steps, per tensor, state included. For Adam and Adagrad with eps >= 1e-8.
inline double tolerance(at::ScalarType dtype, std::string_view rule = "sgd", int steps = 1) {
  if (dtype == at::kDouble) return 1e-11;
  return rule == "adam" ? 1e-3 : 1e-5 * std::max(steps, 1);
}

}  // namespace rookery::cases
