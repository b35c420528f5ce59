// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// JaggedTensor: one feature of a batch. A bag of ids per row, or a sequence of embeddings per row.
//
// Answers to torchrec/sparse/jagged_tensor.py JaggedTensor. Lengths and offsets live on the host, whatever device holds
// the values, so that exchanging counts never waits for a device.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery {

class KeyedJaggedTensor;

namespace detail {

/// Whether a tensor of `dtype` can hold `number` as it is.
inline bool can_hold(at::ScalarType dtype, const at::Scalar& number) {
  if (c10::isComplexType(dtype)) return true;
  if (number.isComplex()) return false;
  if (c10::isFloatingType(dtype) || (dtype == at::kLong && number.isIntegral(/*includeBool=*/true))) return true;
  const auto value = number.toDouble();
  if (dtype == at::kBool) return value == 0 || value == 1;
  const bool is_signed = dtype != at::kByte;
  const auto top = std::exp2(8 * static_cast<double>(c10::elementSize(dtype)) - is_signed);
  return value == std::trunc(value) && value < top && value >= (is_signed ? -top : 0);
}

/// Rows that can be joined: alike but for their length.
inline void check_alike(std::string_view who, std::string_view what, std::span<const at::Tensor> rows) {
  for (std::size_t b = 1; b < rows.size(); ++b) {
    const auto &row = rows[b], &first = rows[0];
    const bool same_kind = row.scalar_type() == first.scalar_type() && row.device() == first.device();
    if (same_kind && row.sizes().slice(1) == first.sizes().slice(1)) continue;
    fail<ShapeError>(who, ": ", what, " of row ", b, " have shape ", row.sizes(), ", dtype ", c10::toString(row.scalar_type()), " on ",
                     row.device().str(), ", those of row 0 ", first.sizes(), ", ", c10::toString(first.scalar_type()), " on ",
                     first.device().str(), "; only the first dimension may differ");
  }
}

}  // namespace detail

/// One feature's rows: those of row b are `values[offsets[b] .. offsets[b + 1])`. A value type: copies share their tensors.
///
/// Shapes:  values [N] or [N, D...], lengths [B] or offsets [B + 1], weights [N] or undefined; B and N may be 0.
/// Dtypes:  values and weights any; lengths and offsets int64 or int32, moved to the host as int64.
/// Errors:  ShapeError for negative lengths, lengths that do not sum to N, offsets that do not start at 0, decrease, or do not end
///          at N, and weights of another length or device than the values.
/// Cost:    O(B) at construction.
/// Source:  torchrec JaggedTensor; differs: every inner offset is checked.
class JaggedTensor {
 public:
  JaggedTensor() : JaggedTensor(detail::Checks::none, ops::empty({0}, at::kLong), ops::empty({0}, at::kLong), {}) {}
  JaggedTensor(at::Tensor values, const at::Tensor& lengths, at::Tensor weights = {})
      : JaggedTensor(detail::Checks::all, std::move(values), detail::host_int64(name, lengths, "lengths"), std::move(weights)) {}

  static JaggedTensor from_lengths(at::Tensor values, const at::Tensor& lengths, at::Tensor weights = {}) {
    return {std::move(values), lengths, std::move(weights)};
  }
  static JaggedTensor from_offsets(at::Tensor values, const at::Tensor& offsets, at::Tensor weights = {}) {
    check_values(values);
    auto lengths = detail::lengths_from(name, detail::host_int64(name, offsets, "offsets"), values.size(0));   // [B]
    return {detail::Checks::all, std::move(values), std::move(lengths), std::move(weights)};
  }
  /// A tensor per row, [length, D...] each, and weights [length] each where there are any. No rows give no ids.
  /// Errors: ShapeError for rows of different D, dtypes or devices.
  static JaggedTensor from_dense(std::span<const at::Tensor> rows, std::span<const at::Tensor> weights = {});
  /// The first `lengths[b]` entries of each row of `values` [B, L, D...], and of `weights` [B, L]. Copies, with gradients.
  /// Errors: ShapeError for a length beyond L.
  static JaggedTensor from_dense_lengths(const at::Tensor& values, const at::Tensor& lengths, const at::Tensor& weights = {});

  const at::Tensor& values() const { return values_; }                             // [N, D...]
  const at::Tensor& lengths() const { return lengths_; }                           // [B]
  at::Tensor offsets() const { return offsets_of(lengths_); }                      // [B + 1]
  bool is_weighted() const { return weights_.defined(); }
  const at::Tensor& weights() const {                                              // [N]
    check<ShapeError>(is_weighted(), "JaggedTensor: weights() asked of a feature without weights");
    return weights_;
  }
  /// Rows, B.
  std::int64_t size() const { return lengths_.numel(); }

  /// A view [length, D...] of each row.
  std::vector<at::Tensor> to_dense() const { return rows_of(values_); }
  /// A view [length] of each row's weights.
  std::vector<at::Tensor> to_dense_weights() const { return rows_of(weights()); }
  /// Rows as one tensor [B, L, D...], filled up with `padding`; L is `desired_length`, longer rows being cut, or the longest row.
  /// Gradients reach the values. Errors: ConfigError for a padding that the values' dtype does not have; ShapeError for a negative length
  /// and a tensor beyond 2^47 bytes, which nothing can address.
  at::Tensor to_padded_dense(std::optional<std::int64_t> desired_length = std::nullopt, const at::Scalar& padding = 0) const {
    return padded(values_, desired_length, padding);                               // [B, L, D...]
  }
  /// The weights in the same places, [B, L].
  at::Tensor to_padded_dense_weights(std::optional<std::int64_t> desired_length = std::nullopt, const at::Scalar& padding = 0) const {
    return padded(weights(), desired_length, padding);                             // [B, L]
  }

  /// Rows [begin, end), as views.
  JaggedTensor slice(std::int64_t begin, std::int64_t end) const;
  /// Values and weights on `device`; lengths stay on the host.
  JaggedTensor to(at::Device device) const {
    return with_tensors([&](const at::Tensor& tensor) { return tensor.to(device, /*non_blocking=*/true); });
  }
  /// Values and weights in pinned memory. Errors: LibTorch's, where no device can use it.
  JaggedTensor pin_memory() const {
    return with_tensors([](const at::Tensor& tensor) { return tensor.pin_memory(); });
  }
  /// Keeps the storages of values and weights from reuse until `stream` has done what it was given by now.
  void record_stream(c10::Stream stream) const {
    for (const auto* tensor : {&values_, &weights_}) detail::record_stream(*tensor, stream);
  }

 private:
  friend class KeyedJaggedTensor;
  static constexpr std::string_view name = "JaggedTensor";

  JaggedTensor(detail::Checks checks, at::Tensor values, at::Tensor lengths, at::Tensor weights)
      : values_(std::move(values)), lengths_(std::move(lengths)), weights_(std::move(weights)) {
    if (checks == detail::Checks::none) return;
    check_values(values_);
    detail::check_lengths(name, lengths_, values_.size(0));
    detail::check_weights(name, weights_, values_);
  }

  static void check_values(const at::Tensor& values) {
    check<ShapeError>(values.defined() && values.dim() >= 1, "JaggedTensor: values must be a tensor of one dimension or more");
  }
  template <class Fn> JaggedTensor with_tensors(Fn&& fn) const {
    return {detail::Checks::none, fn(values_), lengths_, is_weighted() ? fn(weights_) : at::Tensor{}};
  }
  std::vector<at::Tensor> rows_of(const at::Tensor& tensor) const;
  at::Tensor padded(const at::Tensor& tensor, std::optional<std::int64_t> desired_length, const at::Scalar& padding) const;

  at::Tensor values_, lengths_, weights_;
};

inline JaggedTensor JaggedTensor::from_dense(std::span<const at::Tensor> rows, std::span<const at::Tensor> weights) {
  if (rows.empty()) return {};
  auto lengths = ops::empty({static_cast<std::int64_t>(rows.size())}, at::kLong);  // [B]
  for (std::size_t b = 0; b < rows.size(); ++b) {
    check_values(rows[b]);
    lengths.mutable_data_ptr<std::int64_t>()[b] = rows[b].size(0);
  }
  detail::check_alike(name, "values", rows);
  if (!weights.empty()) {
    check<ShapeError>(weights.size() == rows.size(), "JaggedTensor: weights of ", weights.size(), " rows for ", rows.size(), " rows");
    for (std::size_t b = 0; b < rows.size(); ++b) detail::check_weights(name, weights[b], rows[b]);
    detail::check_alike(name, "weights", weights);
  }
  return {ops::cat(at::TensorList(rows.data(), rows.size())), lengths,
          weights.empty() ? at::Tensor{} : ops::cat(at::TensorList(weights.data(), weights.size()))};
}

inline JaggedTensor JaggedTensor::from_dense_lengths(const at::Tensor& values, const at::Tensor& lengths, const at::Tensor& weights) {
  check<ShapeError>(values.defined() && values.dim() >= 2, "JaggedTensor: dense values must be a tensor of two dimensions or more");
  auto kept = detail::host_int64(name, lengths, "lengths");                        // [B]
  const auto rows = values.size(0), width = values.size(1);
  check<ShapeError>(kept.numel() == rows, "JaggedTensor: lengths has ", kept.numel(), " entries for ", rows, " rows");
  if (weights.defined())
    check<ShapeError>(weights.dim() == 2 && weights.sizes() == values.sizes().slice(0, 2), "JaggedTensor: weights of shape ",
                      weights.sizes(), " for values of shape ", values.sizes());
  std::vector<std::int64_t> positions;
  for (std::int64_t b = 0; b < rows; ++b) {
    const auto length = kept.const_data_ptr<std::int64_t>()[b];
    check<ShapeError>(length >= 0 && length <= width, "JaggedTensor: length ", length, " at entry ", b, " of rows of ", width);
    for (std::int64_t i = 0; i < length; ++i) positions.push_back(b * width + i);
  }
  const auto index = detail::host_tensor(positions).to(values.device());           // [N]
  return {values.flatten(0, 1).index_select(0, index), kept,
          weights.defined() ? weights.flatten().index_select(0, index) : at::Tensor{}};
}

inline std::vector<at::Tensor> JaggedTensor::rows_of(const at::Tensor& tensor) const {
  std::vector<at::Tensor> rows;
  std::int64_t begin = 0;
  for (std::int64_t b = 0; b < size(); ++b) {
    const auto length = lengths_.const_data_ptr<std::int64_t>()[b];
    rows.push_back(tensor.narrow(0, begin, length));                               // [length, D...]
    begin += length;
  }
  return rows;
}

inline at::Tensor JaggedTensor::padded(const at::Tensor& tensor, std::optional<std::int64_t> desired_length,
                                       const at::Scalar& padding) const {
  check<ShapeError>(desired_length.value_or(0) >= 0, "JaggedTensor: desired length ", desired_length.value_or(0), " is negative");
  const auto* length = lengths_.const_data_ptr<std::int64_t>();
  const auto width = desired_length.value_or(size() > 0 ? *std::max_element(length, length + size()) : 0);
  auto shape = tensor.sizes().vec();
  shape[0] = size();
  auto bytes = static_cast<double>(tensor.itemsize()) * static_cast<double>(width);
  for (const auto rows : shape) bytes *= static_cast<double>(std::max<std::int64_t>(rows, 1));
  check<ShapeError>(bytes <= 0x1p47, "JaggedTensor: ", size(), " rows padded to ", width, " values each need ", bytes, " bytes");
  check<ConfigError>(detail::can_hold(tensor.scalar_type(), padding), "JaggedTensor: values of ", c10::toString(tensor.scalar_type()),
                     " cannot be padded with ", padding.isComplex() ? NAN : padding.toDouble());
  std::vector<std::int64_t> from, to;
  for (std::int64_t b = 0, begin = 0; b < size(); begin += length[b++])
    for (std::int64_t i = 0; i < std::min(length[b], width); ++i) {
      from.push_back(begin + i);
      to.push_back(b * width + i);
    }
  shape[0] = size() * width;
  const auto rows = tensor.index_select(0, detail::host_tensor(from).to(tensor.device()));       // [kept, D...]
  const auto filled = ops::full(shape, padding, tensor.options())
                          .index_copy(0, detail::host_tensor(to).to(tensor.device()), rows);     // [B * L, D...]
  shape[0] = width;
  shape.insert(shape.begin(), size());
  return filled.view(shape);                                                       // [B, L, D...]
}

inline JaggedTensor JaggedTensor::slice(std::int64_t begin, std::int64_t end) const {
  check<IndexError>(0 <= begin && begin <= end && end <= size(), "JaggedTensor: rows ", begin, " to ", end, " of ", size());
  const auto at = offsets();                                                       // [B + 1]
  const auto first = at.const_data_ptr<std::int64_t>()[begin], count = at.const_data_ptr<std::int64_t>()[end] - first;
  return {detail::Checks::none, values_.narrow(0, first, count), lengths_.narrow(0, begin, end - begin),
          is_weighted() ? weights_.narrow(0, first, count) : at::Tensor{}};
}

}  // namespace rookery
