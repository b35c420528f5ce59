// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// at::empty, zeros, ones, full, scalar_tensor, cat, stack and linear for programs that include no header of ATen/ops.
//
// They are templates, so that LibTorch's own functions go before them where <ATen/ops/..> is included as well. The library itself calls
// rookery::ops (core/operators.hpp), which says what that saves.  Include cost: tensor.

#include <cstdint>
#include <optional>

#include <rookery/core/operators.hpp>

namespace at {

template <int = 0> Tensor empty(IntArrayRef sizes, const TensorOptions& options = {}) { return rookery::ops::empty(sizes, options); }
template <int = 0> Tensor zeros(IntArrayRef sizes, const TensorOptions& options = {}) { return rookery::ops::zeros(sizes, options); }
template <int = 0> Tensor ones(IntArrayRef sizes, const TensorOptions& options = {}) { return rookery::ops::ones(sizes, options); }
template <int = 0> Tensor full(IntArrayRef sizes, const Scalar& value, const TensorOptions& options = {}) {
  return rookery::ops::full(sizes, value, options);
}
template <int = 0> Tensor scalar_tensor(const Scalar& value, const TensorOptions& options = {}) {
  return rookery::ops::scalar_tensor(value, options);
}
template <int = 0> Tensor cat(TensorList tensors, std::int64_t dim = 0) { return rookery::ops::cat(tensors, dim); }
template <int = 0> Tensor stack(TensorList tensors, std::int64_t dim = 0) { return rookery::ops::stack(tensors, dim); }
template <int = 0> Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias = {}) {
  return rookery::ops::linear(x, weight, bias);
}

}  // namespace at
