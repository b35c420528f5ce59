// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// VariableBatch: the rows of each key, for batches whose keys differ in them ("VBE"), and what such a batch stands for.
//
// A feature that says the same of many rows, such as a user's history in a batch of one user's impressions, is sent once and named
// by inverse indices. Answers to stride_per_key_per_rank and inverse_indices of torchrec's KeyedJaggedTensor; differs: both are
// checked.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery {

/// Which of its key's rows each row of a batch stands for: indices [keys, B], int64 or int32.
struct InverseIndices {
  std::vector<std::string> keys = {};
  at::Tensor indices = {};
};

/// The rows of every key [F], or of every key and rank [F][R], which are added up. With inverse indices the batch stands for one of
/// equal rows, its repeated rows left out.
struct VariableBatch {
  std::vector<std::int64_t> stride_per_key = {};
  std::vector<std::vector<std::int64_t>> stride_per_key_per_rank = {};
  InverseIndices inverse_indices = {};
};

namespace detail {

/// Rows of each key [F], which sum to the number of lengths. Errors: ShapeError.
inline std::vector<std::int64_t> strides_of(const VariableBatch& rows, const std::vector<std::string>& keys, std::int64_t lengths) {
  check<ShapeError>(rows.stride_per_key.empty() || rows.stride_per_key_per_rank.empty(),
                    "KeyedJaggedTensor: rows are given per key and per key and rank; give one of the two");
  auto per_rank = rows.stride_per_key_per_rank;                // of one rank each where they are given per key
  for (const auto stride : rows.stride_per_key) per_rank.push_back({stride});
  check<ShapeError>(per_rank.size() == keys.size(), "KeyedJaggedTensor: rows of ", per_rank.size(), " keys for ", keys.size(), " keys");
  std::vector<std::int64_t> strides;
  std::int64_t total = 0;
  for (std::size_t f = 0; f < keys.size(); ++f) {
    strides.push_back(0);
    for (const auto stride : per_rank[f]) {
      check<ShapeError>(stride >= 0 && stride <= lengths, "KeyedJaggedTensor: key '", keys[f], "' has ", stride, " rows, with ", lengths,
                        " lengths");
      strides.back() += stride;
    }
    total += strides.back();
  }
  check<ShapeError>(total == lengths, "KeyedJaggedTensor: lengths has ", lengths, " entries; the rows of the keys, ", strides,
                    ", sum to ", total);
  return strides;
}

/// The inverse indices of `keys` in their order, int64 on `device`: [F, B]. Errors: ShapeError; IndexError for a key without them, and
/// for a row that its key does not have.
inline at::Tensor inverse_of(const InverseIndices& inverse, const std::vector<std::string>& keys, std::span<const std::int64_t> strides,
                             at::Device device) {
  const auto& given = inverse.indices;
  check<ShapeError>(given.dim() == 2 && given.size(0) == static_cast<std::int64_t>(inverse.keys.size()),
                    "KeyedJaggedTensor: inverse indices of shape ", given.sizes(), " for ", inverse.keys.size(), " keys");
  check<ShapeError>(is_integer(given), "KeyedJaggedTensor: inverse indices has dtype ", c10::toString(given.scalar_type()),
                    "; it must be int64 or int32");
  std::vector<std::int64_t> order;
  for (const auto& key : keys) {
    const auto found = std::find(inverse.keys.begin(), inverse.keys.end(), key);
    check<IndexError>(found != inverse.keys.end(), "KeyedJaggedTensor: no inverse indices of key '", key, "'; there are those of ",
                      inverse.keys);
    order.push_back(found - inverse.keys.begin());
  }
  const auto ordered = given.to(at::kCPU, at::kLong).index_select(0, host_tensor(order));   // [F, B]
  const auto* index = ordered.const_data_ptr<std::int64_t>();
  for (std::size_t f = 0; f < keys.size(); ++f)
    for (std::int64_t b = 0; b < ordered.size(1); ++b, ++index)
      check<IndexError>(*index >= 0 && *index < strides[f], "KeyedJaggedTensor: inverse index ", *index, " at row ", b, " of key '",
                        keys[f], "', which has ", strides[f], " rows");
  return ordered.to(device);                                                       // [F, B]
}

}  // namespace detail

}  // namespace rookery
