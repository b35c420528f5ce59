// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Numbers in and out of tensors, and batches as plain vectors to compare the containers with.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <rookery/sparse/keyed_jagged_tensor.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/random_batches.hpp"

namespace rookery::cases {

using Integers = std::vector<std::int64_t>;
using Numbers = std::vector<double>;
using Keys = std::vector<std::string>;

template <class T> at::Tensor tensor_of(const std::vector<T>& values, at::ScalarType dtype) {
  auto tensor = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
  std::copy(values.begin(), values.end(), tensor.template mutable_data_ptr<T>());
  return tensor;
}
template <class T> std::vector<T> vector_of(const at::Tensor& tensor, at::ScalarType dtype) {
  const auto values = tensor.detach().to(at::kCPU, dtype).contiguous();
  return {values.template const_data_ptr<T>(), values.template const_data_ptr<T>() + values.numel()};
}
inline at::Tensor integers(const Integers& values) { return tensor_of(values, at::kLong); }
inline Integers integers_of(const at::Tensor& tensor) { return vector_of<std::int64_t>(tensor, at::kLong); }
inline at::Tensor numbers(const Numbers& values) { return tensor_of(values, at::kDouble); }
inline Numbers numbers_of(const at::Tensor& tensor) { return vector_of<double>(tensor, at::kDouble); }
inline Integers one_to(std::int64_t n) {
  Integers values;
  for (std::int64_t i = 1; i <= n; ++i) values.push_back(i);
  return values;
}

/// A feature as vectors: the ids and weights of each row.
struct PlainFeature {
  std::vector<Integers> ids;
  std::vector<Numbers> weights;
  bool operator==(const PlainFeature&) const = default;
};
/// A batch as vectors. Rows per key and inverse indices are those of variable batches.
struct PlainBatch {
  Keys keys = {};
  std::vector<PlainFeature> features = {};
  bool is_weighted = false, is_variable = false, has_inverse = false;
  std::int64_t stride = 0;
  std::vector<Integers> inverse = {};
  bool operator==(const PlainBatch&) const = default;
};

/// Any of keys, rows and ids may be none. A variable batch has inverse indices on request.
inline PlainBatch draw_plain(Draw& draw, std::int64_t most_keys, std::int64_t stride, bool is_weighted, bool is_variable,
                             bool has_inverse) {
  PlainBatch batch{.is_weighted = is_weighted, .is_variable = is_variable, .has_inverse = has_inverse};
  batch.stride = is_variable && !has_inverse ? 0 : stride;
  const auto keys = draw.integer(0, most_keys);
  for (std::int64_t f = 0; f < keys; ++f) {
    batch.keys.push_back(concat("f", f));
    PlainFeature feature;
    const auto rows = !is_variable ? stride : draw.integer(has_inverse && stride > 0 ? 1 : 0, 4);
    const bool none = draw.chance(.2);
    for (std::int64_t b = 0; b < rows; ++b) {
      feature.ids.emplace_back();
      feature.weights.emplace_back();
      for (auto n = none ? 0 : draw.integer(0, 3); n > 0; --n) {
        feature.ids.back().push_back(draw.integer(-5, 1000));
        feature.weights.back().push_back(is_weighted ? draw.real(.1, 2) : 0);
      }
    }
    batch.features.push_back(std::move(feature));
    if (has_inverse) {
      batch.inverse.emplace_back();
      for (std::int64_t b = 0; b < stride; ++b) batch.inverse.back().push_back(draw.integer(0, rows - 1));
    } else if (is_variable) {
      batch.stride = std::max(batch.stride, rows);
    }
  }
  return batch;
}

inline KeyedJaggedTensor build(const PlainBatch& batch, bool by_offsets = false, at::ScalarType dtype = at::kLong) {
  Integers ids, lengths, offsets{0}, inverse;
  Numbers weights;
  VariableBatch rows;
  for (const auto& feature : batch.features) {
    rows.stride_per_key.push_back(static_cast<std::int64_t>(feature.ids.size()));
    for (std::size_t b = 0; b < feature.ids.size(); ++b) {
      lengths.push_back(static_cast<std::int64_t>(feature.ids[b].size()));
      ids.insert(ids.end(), feature.ids[b].begin(), feature.ids[b].end());
      weights.insert(weights.end(), feature.weights[b].begin(), feature.weights[b].end());
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
  }
  const auto values = integers(ids).to(dtype);
  const auto of_ids = batch.is_weighted ? numbers(weights) : at::Tensor{};
  const auto make = [&](const auto& stride) {
    return by_offsets ? KeyedJaggedTensor::from_offsets(batch.keys, values, integers(offsets), of_ids, stride)
                      : KeyedJaggedTensor::from_lengths(batch.keys, values, integers(lengths), of_ids, stride);
  };
  if (!batch.is_variable) return make(batch.stride);
  if (batch.has_inverse) {                                     // named in the opposite order, which must not matter
    for (std::size_t f = batch.keys.size(); f-- > 0;) {
      rows.inverse_indices.keys.push_back(batch.keys[f]);
      inverse.insert(inverse.end(), batch.inverse[f].begin(), batch.inverse[f].end());
    }
    rows.inverse_indices.indices = integers(inverse).view({static_cast<std::int64_t>(batch.keys.size()), batch.stride});
  }
  return make(rows);
}

/// What the accessors of a batch say, as vectors.
inline PlainBatch read(const KeyedJaggedTensor& batch) {
  PlainBatch plain{.keys = batch.keys(), .is_weighted = batch.is_weighted(), .is_variable = batch.variable_stride_per_key(),
                   .has_inverse = batch.has_inverse_indices(), .stride = batch.stride()};
  const auto ids = integers_of(batch.values()), offsets = integers_of(batch.offsets());
  const auto weights = batch.is_weighted() ? numbers_of(batch.weights()) : Numbers(ids.size());
  auto offset = offsets.begin();
  for (std::size_t f = 0; f < plain.keys.size(); ++f) {
    plain.features.emplace_back();
    for (std::int64_t b = 0; b < batch.stride_per_key()[f]; ++b, ++offset) {
      plain.features.back().ids.emplace_back(ids.begin() + offset[0], ids.begin() + offset[1]);
      plain.features.back().weights.emplace_back(weights.begin() + offset[0], weights.begin() + offset[1]);
    }
    if (batch.has_inverse_indices()) plain.inverse.push_back(integers_of(batch.inverse_indices()[static_cast<std::int64_t>(f)]));
  }
  return plain;
}

}  // namespace rookery::cases
