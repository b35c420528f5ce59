// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LibTorch's operators that are no methods of a tensor, called as at::empty and so on are, without what <ATen/ops/..> costs.
//
// Each header of ATen/ops brings the context, devices, JIT types and all vector intrinsics along: 3 s and 240 MB of compiler for a
// function of one line. The same operators lie in <ATen/ops/.._ops.h> by their schema, beside nothing else; these are the lines over
// them. What a tensor has a method for is called by that.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_norm_ops.h>
#include <ATen/ops/arange_ops.h>
#include <ATen/ops/batch_norm_ops.h>
#include <ATen/ops/binary_cross_entropy_with_logits_ops.h>
#include <ATen/ops/concat_ops.h>
#include <ATen/ops/empty_ops.h>
#include <ATen/ops/full_ops.h>
#include <ATen/ops/gelu_ops.h>
#include <ATen/ops/layer_norm_ops.h>
#include <ATen/ops/linalg_vector_norm_ops.h>
#include <ATen/ops/linear_ops.h>
#include <ATen/ops/mkldnn_linear_ops.h>
#include <ATen/ops/ones_ops.h>
#include <ATen/ops/pow_ops.h>
#include <ATen/ops/scalar_tensor_ops.h>
#include <ATen/ops/segment_reduce_ops.h>
#include <ATen/ops/silu_ops.h>
#include <ATen/ops/stack_ops.h>
#include <ATen/ops/triu_indices_ops.h>
#include <ATen/ops/where_ops.h>
#include <ATen/ops/zeros_ops.h>

#include <cstdint>
#include <optional>

namespace rookery::ops {

/// New tensors. Options may be a dtype alone.
inline at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options = {}) {
  return at::_ops::empty_memory_format::call(c10::fromIntArrayRefSlow(sizes), c10::optTypeMetaToScalarType(options.dtype_opt()),
                                             options.layout_opt(), options.device_opt(), options.pinned_memory_opt(),
                                             options.memory_format_opt());
}
inline at::Tensor zeros(at::IntArrayRef sizes, const at::TensorOptions& options = {}) {
  return at::_ops::zeros::call(c10::fromIntArrayRefSlow(sizes), c10::optTypeMetaToScalarType(options.dtype_opt()), options.layout_opt(),
                               options.device_opt(), options.pinned_memory_opt());
}
inline at::Tensor full(at::IntArrayRef sizes, const at::Scalar& value, const at::TensorOptions& options = {}) {
  return at::_ops::full::call(c10::fromIntArrayRefSlow(sizes), value, c10::optTypeMetaToScalarType(options.dtype_opt()),
                              options.layout_opt(), options.device_opt(), options.pinned_memory_opt());
}
inline at::Tensor ones(at::IntArrayRef sizes, const at::TensorOptions& options = {}) {
  return at::_ops::ones::call(c10::fromIntArrayRefSlow(sizes), c10::optTypeMetaToScalarType(options.dtype_opt()), options.layout_opt(),
                              options.device_opt(), options.pinned_memory_opt());
}
inline at::Tensor scalar_tensor(const at::Scalar& value, const at::TensorOptions& options = {}) {       // []
  return at::_ops::scalar_tensor::call(value, c10::optTypeMetaToScalarType(options.dtype_opt()), options.layout_opt(),
                                       options.device_opt(), options.pinned_memory_opt());
}
/// 0, 1, .. count - 1, [count] int64.
inline at::Tensor arange(std::int64_t count, at::Device device) { return at::_ops::arange::call(count, at::kLong, {}, device, {}); }
/// Positions (row, column) above the diagonal with that offset, [2, n] int64.
inline at::Tensor triu_indices(std::int64_t rows, std::int64_t columns, std::int64_t offset, at::Device device) {
  return at::_ops::triu_indices::call(rows, columns, offset, at::kLong, {}, device, {});
}

inline at::Tensor cat(at::TensorList tensors, std::int64_t dim = 0) { return at::_ops::concat::call(tensors, dim); }
inline at::Tensor stack(at::TensorList tensors, std::int64_t dim = 0) { return at::_ops::stack::call(tensors, dim); }

/// `yes` where `condition`, else `no`.
inline at::Tensor where(const at::Tensor& condition, const at::Tensor& yes, const at::Tensor& no) {
  return at::_ops::where_self::call(condition, yes, no);
}
inline at::Tensor pow(const at::Scalar& base, const at::Tensor& exponent) { return at::_ops::pow_Scalar::call(base, exponent); }
/// Sums of the rows [offsets[s], offsets[s + 1]) of data [n, D], each by one thread in their order -> [S, D]. Offsets are not looked at.
inline at::Tensor segment_sums(const at::Tensor& data, const at::Tensor& offsets) {
  return at::_ops::segment_reduce::call(data, "sum", {}, {}, offsets, 0, /*unsafe=*/true, at::Scalar(0));
}

using MaybeTensor = std::optional<at::Tensor>;

/// The square root of the sum of squares of all elements, [] float64.
inline at::Tensor norm(const at::Tensor& x) { return at::_ops::linalg_vector_norm::call(x, 2, {}, false, at::kDouble); }

/// The same of each of several tensors at once, [tensors] float64; with an infinite `order` the largest absolute value.
inline at::Tensor norms(at::TensorList tensors, double order = 2) {
  return ops::stack(at::_ops::_foreach_norm_Scalar::call(tensors, order, at::kDouble));
}

/// x [.., in] * weight [out, in] + bias [out].
inline at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const MaybeTensor& bias = {}) {
  return at::_ops::linear::call(x, weight, bias);                                            // [.., out]
}
/// The same of an x in oneDNN's layout, which the result has too; weight and bias are ordinary tensors.
inline at::Tensor onednn_linear(const at::Tensor& x, const at::Tensor& weight, const MaybeTensor& bias = {}) {
  return at::_ops::mkldnn_linear::call(x, weight, bias);                                     // [B, out]
}
inline at::Tensor silu(const at::Tensor& x) { return at::_ops::silu::call(x); }
inline at::Tensor gelu(const at::Tensor& x) { return at::_ops::gelu::call(x, "none"); }
inline at::Tensor layer_norm(const at::Tensor& x, at::IntArrayRef shape, const MaybeTensor& weight, const MaybeTensor& bias,
                             double eps) {
  return at::_ops::layer_norm::call(x, c10::fromIntArrayRefSlow(shape), weight, bias, eps, /*cudnn_enable=*/true);
}
inline at::Tensor batch_norm(const at::Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& running_mean,
                             const MaybeTensor& running_var, bool training, double momentum, double eps, bool cudnn_enabled) {
  return at::_ops::batch_norm::call(x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled);
}
/// `reduction` is one of at::Reduction.
inline at::Tensor binary_cross_entropy_with_logits(const at::Tensor& logits, const at::Tensor& labels, const MaybeTensor& weight,
                                                   const MaybeTensor& pos_weight, std::int64_t reduction) {
  return at::_ops::binary_cross_entropy_with_logits::call(logits, labels, weight, pos_weight, reduction);
}

}  // namespace rookery::ops
