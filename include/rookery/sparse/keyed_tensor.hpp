// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// KeyedTensor: pooled embeddings of several features side by side, found again by name.
//
// Answers to torchrec/sparse/jagged_tensor.py KeyedTensor; regroup is in sparse/regroup.hpp.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery {

/// The columns of a KeyedTensor: keys and their widths, shared between batches.
struct KeyedColumns {
  std::vector<std::string> keys;
  std::vector<std::int64_t> length_per_key;
};

/// values [B, sum(D)] whose columns belong to keys of widths `length_per_key`; B and sum(D) may be 0.
///
/// Errors:  ShapeError, when it is made of keys and widths, for a key given twice and for widths that are negative, of another number than
///          the keys, or do not sum to the columns. Columns that are shared with another KeyedTensor are not checked.
class KeyedTensor {
 public:
  KeyedTensor() = default;
  KeyedTensor(std::shared_ptr<const KeyedColumns> columns, at::Tensor values) : columns_(std::move(columns)), values_(std::move(values)) {}

  KeyedTensor(std::vector<std::string> keys, std::vector<std::int64_t> length_per_key, at::Tensor values);

  /// The tensors of all keys, [B, D] each, side by side. Errors: ShapeError for another number of tensors than keys, or of rows.
  static KeyedTensor from_tensor_list(std::vector<std::string> keys, std::span<const at::Tensor> tensors);

  /// The dimension that keys share out: columns.
  static constexpr std::int64_t key_dim() { return 1; }
  const std::vector<std::string>& keys() const { return columns_->keys; }
  const std::vector<std::int64_t>& length_per_key() const { return columns_->length_per_key; }
  /// Keys and widths, as they may be shared with another KeyedTensor.
  const std::shared_ptr<const KeyedColumns>& columns() const { return columns_; }
  /// Where each key's columns start, and sum(D) at the end [F + 1].
  std::vector<std::int64_t> offset_per_key() const {
    std::vector<std::int64_t> offsets{0};
    for (const auto length : length_per_key()) offsets.push_back(offsets.back() + length);
    return offsets;
  }
  const at::Tensor& values() const { return values_; }                             // [B, sum(D)]
  /// Rows, B.
  std::int64_t size() const { return values_.defined() ? values_.size(0) : 0; }

  bool contains(std::string_view key) const { return std::find(keys().begin(), keys().end(), key) != keys().end(); }
  /// The columns of one key, a view [B, D]. Errors: IndexError that lists the keys there are.
  at::Tensor operator[](std::string_view key) const {
    std::int64_t column = 0;
    for (std::size_t i = 0; i < keys().size(); ++i) {
      if (keys()[i] == key) return values_.narrow(key_dim(), column, length_per_key()[i]);   // [B, D]
      column += length_per_key()[i];
    }
    fail<IndexError>("KeyedTensor: no key '", key, "'; keys are ", keys());
  }
  /// The columns of every key, in the order of the keys, as views [B, D].
  std::vector<std::pair<std::string, at::Tensor>> to_dict() const {
    std::vector<std::pair<std::string, at::Tensor>> columns;
    const auto offsets = offset_per_key();
    for (std::size_t i = 0; i < keys().size(); ++i)
      columns.emplace_back(keys()[i], values_.narrow(key_dim(), offsets[i], length_per_key()[i]));
    return columns;
  }

  /// Rows [begin, end), a view.
  KeyedTensor slice(std::int64_t begin, std::int64_t end) const {
    check<IndexError>(0 <= begin && begin <= end && end <= size(), "KeyedTensor: rows ", begin, " to ", end, " of ", size());
    return {columns_, values_.defined() ? values_.narrow(0, begin, end - begin) : values_};  // [end - begin, sum(D)]
  }
  KeyedTensor to(at::Device device) const {
    return {columns_, values_.defined() ? values_.to(device, /*non_blocking=*/true) : values_};
  }
  /// Values in pinned memory. Errors: LibTorch's, where no device can use it.
  KeyedTensor pin_memory() const { return {columns_, values_.defined() ? values_.pin_memory() : values_}; }
  /// Keeps the storage from reuse until `stream` has done what it was given by now.
  void record_stream(c10::Stream stream) const { detail::record_stream(values_, stream); }

 private:
  std::shared_ptr<const KeyedColumns> columns_ = std::make_shared<const KeyedColumns>();
  at::Tensor values_;
};

inline KeyedTensor::KeyedTensor(std::vector<std::string> keys, std::vector<std::int64_t> length_per_key, at::Tensor values)
    : values_(std::move(values)) {
  detail::check_keys("KeyedTensor", keys);
  check<ShapeError>(length_per_key.size() == keys.size(), "KeyedTensor: ", length_per_key.size(), " widths for ", keys.size(), " keys");
  std::int64_t width = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    check<ShapeError>(length_per_key[i] >= 0, "KeyedTensor: key '", keys[i], "' has width ", length_per_key[i]);
    width += length_per_key[i];
  }
  check<ShapeError>(values_.defined() && values_.dim() == 2, "KeyedTensor: values must be a tensor of two dimensions");
  check<ShapeError>(values_.size(1) == width, "KeyedTensor: values have shape ", values_.sizes(), "; the widths ", length_per_key,
                    " sum to ", width);
  columns_ = std::make_shared<const KeyedColumns>(KeyedColumns{std::move(keys), std::move(length_per_key)});
}

inline KeyedTensor KeyedTensor::from_tensor_list(std::vector<std::string> keys, std::span<const at::Tensor> tensors) {
  check<ShapeError>(keys.size() == tensors.size(), "KeyedTensor: ", tensors.size(), " tensors for ", keys.size(), " keys");
  detail::check_keys("KeyedTensor", keys);
  if (keys.empty()) return {};
  KeyedColumns columns{std::move(keys), {}};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    check<ShapeError>(tensors[i].defined() && tensors[i].dim() == 2 && tensors[i].size(0) == tensors[0].size(0), "KeyedTensor: key '",
                      columns.keys[i], "' has shape ", tensors[i].sizes(), "; every key has two dimensions and as many rows as the first");
    columns.length_per_key.push_back(tensors[i].size(1));
  }
  return {std::make_shared<const KeyedColumns>(std::move(columns)), ops::cat(at::TensorList(tensors.data(), tensors.size()), 1)};
}

}  // namespace rookery
