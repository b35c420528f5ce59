// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// tensor_histogram: how the numbers of a tensor are spread.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include <rookery/log/histogram.hpp>

namespace rookery {

/// The histogram of all numbers of a tensor, of any dtype, device and strides.
///
/// Cost:    one pass, 65,536 numbers at a time converted to float64 on the host.
/// Example: `tensor_board.histogram(step, "over.layers.0.weight", tensor_histogram(weight))`
inline Histogram tensor_histogram(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  Histogram histogram;
  const auto add = [&](const at::Tensor& part) {
    const auto numbers = part.to(at::kCPU, at::kDouble).contiguous();
    const std::span values(numbers.const_data_ptr<double>(), static_cast<std::size_t>(numbers.numel()));
    for (const double value : values) histogram.add(value);
  };
  if (tensor.dim() == 0) return add(tensor), histogram;
  const auto rows = std::max<std::int64_t>(65'536 * tensor.size(0) / std::max<std::int64_t>(tensor.numel(), 1), 1);
  for (std::int64_t row = 0; row < tensor.size(0); row += rows) add(tensor.narrow(0, row, std::min(rows, tensor.size(0) - row)));
  return histogram;
}

}  // namespace rookery
