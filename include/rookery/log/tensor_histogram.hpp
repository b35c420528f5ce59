// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// tensor_histogram: how the numbers of a tensor are spread.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include <rookery/log/histogram.hpp>

namespace rookery {

namespace detail {

/// Adds the numbers of a tensor in the order of its rows, some at a time.
inline void add_numbers(Histogram& histogram, const at::Tensor& tensor) {
  constexpr std::int64_t most = 65'536;
  if (tensor.numel() > most) {
    std::int64_t dim = 0;
    while (tensor.size(dim) == 1) ++dim;
    const auto half = tensor.size(dim) / 2;
    add_numbers(histogram, tensor.narrow(dim, 0, half));
    add_numbers(histogram, tensor.narrow(dim, half, tensor.size(dim) - half));
    return;
  }
  const auto numbers = tensor.to(at::kCPU, at::kDouble).contiguous();
  const std::span values(numbers.const_data_ptr<double>(), static_cast<std::size_t>(numbers.numel()));
  for (const double value : values) histogram.add(value);
}

}  // namespace detail

/// The histogram of all numbers of a tensor, of any dtype, device and strides.
///
/// Cost:    one pass, at most 65,536 numbers at a time converted to float64 on the host, whatever the shape.
/// Example: `tensor_board.histogram(step, "over.layers.0.weight", tensor_histogram(weight))`
inline Histogram tensor_histogram(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  Histogram histogram;
  detail::add_numbers(histogram, tensor);
  return histogram;
}

}  // namespace rookery
