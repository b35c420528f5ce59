// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// KeyedTensor: pooled embeddings of several features side by side, found again by name.
//
// Answers to torchrec/sparse/jagged_tensor.py KeyedTensor.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

/// The columns of a KeyedTensor: keys and their widths, shared between batches.
struct KeyedColumns {
  std::vector<std::string> keys;
  std::vector<std::int64_t> length_per_key;
};

/// values [B, sum(D)] whose columns belong to keys of widths `length_per_key`.
class KeyedTensor {
 public:
  KeyedTensor() = default;
  KeyedTensor(std::shared_ptr<const KeyedColumns> columns, at::Tensor values) : columns_(std::move(columns)), values_(std::move(values)) {}

  const std::vector<std::string>& keys() const { return columns_->keys; }
  const std::vector<std::int64_t>& length_per_key() const { return columns_->length_per_key; }
  const at::Tensor& values() const { return values_; }                             // [B, sum(D)]

  /// The columns of one key, a view [B, D]. Errors: IndexError that lists the keys there are.
  at::Tensor operator[](std::string_view key) const {
    std::int64_t column = 0;
    for (std::size_t i = 0; i < keys().size(); ++i) {
      if (keys()[i] == key) return values_.narrow(1, column, length_per_key()[i]);  // [B, D]
      column += length_per_key()[i];
    }
    fail<IndexError>("KeyedTensor: no key '", key, "'; keys are ", keys());
  }

 private:
  std::shared_ptr<const KeyedColumns> columns_ = std::make_shared<const KeyedColumns>();
  at::Tensor values_;
};

}  // namespace rookery
