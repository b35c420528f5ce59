// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the jagged containers check of lengths, offsets and weights when they are built, so that no later code has to.
//
// Answers to torchrec/sparse/jagged_tensor_validator.py; differs: it runs on every batch, on the host where lengths live, and looks
// at every inner offset, not only at the first and the last. Each refusal is one sentence with its numbers.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

/// Offsets [n + 1] of the given lengths [n], both int64 on the host.
inline at::Tensor offsets_of(const at::Tensor& lengths) {
  auto offsets = ops::empty({lengths.numel() + 1}, at::kLong);                     // [n + 1]
  const auto* from = lengths.const_data_ptr<std::int64_t>();
  auto* to = offsets.mutable_data_ptr<std::int64_t>();
  to[0] = 0;
  for (std::int64_t i = 0; i < lengths.numel(); ++i) to[i + 1] = to[i] + from[i];
  return offsets;
}

namespace detail {

/// Whether a container that is put together checks its parts, or knows them.
enum class Checks { none, all };

/// Host numbers as a tensor [n].
inline at::Tensor host_tensor(std::span<const double> numbers) {
  auto tensor = ops::empty({static_cast<std::int64_t>(numbers.size())}, at::kDouble);        // [n]
  std::copy(numbers.begin(), numbers.end(), tensor.mutable_data_ptr<double>());
  return tensor;
}
inline at::Tensor host_tensor(std::span<const std::int64_t> numbers) {
  auto tensor = ops::empty({static_cast<std::int64_t>(numbers.size())}, at::kLong); // [n]
  std::copy(numbers.begin(), numbers.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

inline bool is_integer(const at::Tensor& tensor) { return tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt; }

/// Lengths or offsets as the containers keep them: int64, contiguous, on the host.
inline at::Tensor host_int64(std::string_view who, const at::Tensor& tensor, std::string_view what) {
  check<ShapeError>(tensor.defined() && tensor.dim() == 1, who, ": ", what, " must be a tensor of one dimension");
  check<ShapeError>(is_integer(tensor), who, ": ", what, " has dtype ", c10::toString(tensor.scalar_type()),
                    "; it must be int64 or int32");
  return tensor.to(at::kCPU, at::kLong, /*non_blocking=*/false, /*copy=*/true).contiguous();   // [n]; the owner may reuse its own
}

/// Lengths [n] of host offsets [n + 1] into `values` values.
inline at::Tensor lengths_from(std::string_view who, const at::Tensor& offsets, std::int64_t values) {
  const auto n = offsets.numel() - 1;
  check<ShapeError>(n >= 0, who, ": offsets is empty; it must have an entry for every bag, and one more");
  const auto* at = offsets.const_data_ptr<std::int64_t>();
  check<ShapeError>(at[0] == 0, who, ": offsets starts at ", at[0], "; it must start at 0");
  check<ShapeError>(at[n] == values, who, ": offsets ends at ", at[n], " but there are ", values, " values");
  auto lengths = ops::empty({n}, at::kLong);                                       // [n]
  auto* to = lengths.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    check<ShapeError>(at[i] <= at[i + 1], who, ": offsets decreases from ", at[i], " to ", at[i + 1], " at entry ", i + 1);
    to[i] = at[i + 1] - at[i];
  }
  return lengths;
}

/// Host lengths are not negative, none is beyond the values, and they sum to them.
inline void check_lengths(std::string_view who, const at::Tensor& lengths, std::int64_t values) {
  const auto* length = lengths.const_data_ptr<std::int64_t>();
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < lengths.numel(); ++i) {
    check<ShapeError>(length[i] >= 0 && length[i] <= values, who, ": length ", length[i], " at entry ", i, " with ", values, " values");
    total += length[i];
  }
  check<ShapeError>(total == values, who, ": lengths sum to ", total, " but there are ", values, " values");
}

/// One weight for each value, on the same device; those of ids on the host may be on another, where they are computed.
inline void check_weights(std::string_view who, const at::Tensor& weights, const at::Tensor& values) {
  if (!weights.defined()) return;
  check<ShapeError>(weights.dim() == 1 && weights.numel() == values.size(0), who, ": weights of shape ", weights.sizes(), " for ",
                    values.size(0), " values");
  if (weights.device() != values.device() && (!values.is_cpu() || weights.is_meta()))
    fail<ShapeError>(who, ": weights on ", weights.device().str(), " and values on ", values.device().str());
}

/// The ids, lengths and weights of keys. Lengths are on the host.
inline void check_bags(std::string_view who, const at::Tensor& values, const at::Tensor& lengths, const at::Tensor& weights) {
  check<ShapeError>(values.defined() && values.dim() == 1, who, ": values must be a tensor of one dimension");
  check<ShapeError>(is_integer(values), who, ": values has dtype ", c10::toString(values.scalar_type()), "; ids are int64 or int32");
  check_lengths(who, lengths, values.numel());
  check_weights(who, weights, values);
  check<ShapeError>(!weights.defined() || weights.is_floating_point(), who, ": weights has dtype ",
                    c10::toString(weights.scalar_type()), "; it must be floating");
}

/// The first of the names that stands before it already, or null.
inline const std::string* first_repeated(const std::vector<std::string>& names) {
  std::unordered_map<std::string_view, std::size_t> seen;
  for (const auto& name : names)
    if (!seen.emplace(name, seen.size()).second) return &name;
  return nullptr;
}

/// No key twice.
inline void check_keys(std::string_view who, const std::vector<std::string>& keys) {
  if (const auto* key = first_repeated(keys)) fail<ShapeError>(who, ": key '", *key, "' is given twice");
}

/// Keeps the storage of a tensor on a device from reuse until `stream` has done what it was given by now.
inline void record_stream(const at::Tensor& tensor, c10::Stream stream) {
  if (tensor.defined() && !tensor.is_cpu()) tensor.record_stream(stream);          // the host has no streams to wait for
}

}  // namespace detail

}  // namespace rookery
