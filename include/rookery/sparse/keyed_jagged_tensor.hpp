// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// KeyedJaggedTensor: the sparse part of a batch, F features with a bag of ids per row each.
//
// Answers to torchrec/sparse/jagged_tensor.py KeyedJaggedTensor: key-major layout, lengths[f * B + b]. Checked when it is
// built, inner offsets included, so that no later code has to. Lengths and offsets stay on the host.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/sparse/jagged_tensor.hpp>

namespace rookery {

/// F features by B rows of bags of ids, optionally weighted. A value type: copies share their tensors and keys.
///
/// Shapes:  values [N], lengths [F * B] or offsets [F * B + 1], weights [N] or undefined; any of F, B, N may be 0.
/// Dtypes:  values int64 or int32; lengths and offsets int64 or int32, moved to the host as int64; weights floating.
/// Errors:  ShapeError for duplicate keys, a length of lengths that no batch size gives, negative lengths, offsets that do not
///          start at 0, decrease, or do not end at N, and weights of another length than the values.
/// Cost:    O(F * B) at construction; slices and splits are views of values and weights.
/// Source:  torchrec KeyedJaggedTensor; differs: every inner offset is checked, not only the first and the last.
class KeyedJaggedTensor {
 public:
  KeyedJaggedTensor() : KeyedJaggedTensor({}, at::empty({0}, at::kLong), at::empty({0}, at::kLong), {}, 0) {}

  /// From lengths [F * B]. With no keys the batch size cannot be told from them: give `stride`.
  static KeyedJaggedTensor from_lengths(std::vector<std::string> keys, at::Tensor values, const at::Tensor& lengths,
                                        at::Tensor weights = {}, std::int64_t stride = -1) {
    return {std::move(keys), std::move(values), host_int64(lengths, "lengths"), std::move(weights), stride};
  }

  /// From offsets [F * B + 1].
  static KeyedJaggedTensor from_offsets(std::vector<std::string> keys, at::Tensor values, const at::Tensor& offsets,
                                        at::Tensor weights = {}, std::int64_t stride = -1) {
    auto lengths = lengths_from(host_int64(offsets, "offsets"), values.numel());   // [F * B]
    return {std::move(keys), std::move(values), std::move(lengths), std::move(weights), stride};
  }

  /// Joins features of equal batch size and weightedness.
  static KeyedJaggedTensor concat(std::span<const KeyedJaggedTensor> parts);

  const std::vector<std::string>& keys() const { return *keys_; }
  const at::Tensor& values() const { return values_; }                             // [N]
  const at::Tensor& lengths() const { return lengths_; }                           // [F * B]
  const at::Tensor& offsets() const { return offsets_; }                           // [F * B + 1]
  bool is_weighted() const { return weights_.defined(); }
  const at::Tensor& weights() const {                                              // [N]
    check<ShapeError>(is_weighted(), "KeyedJaggedTensor: weights() asked of a batch without weights");
    return weights_;
  }
  /// Rows of the batch, B.
  std::int64_t stride() const { return stride_; }

  /// Ids of each key [F].
  std::vector<std::int64_t> length_per_key() const {
    std::vector<std::int64_t> lengths;
    for (std::size_t f = 0; f < keys().size(); ++f) lengths.push_back(offset(f + 1) - offset(f));
    return lengths;
  }
  /// Where each key's ids start, and N at the end [F + 1].
  std::vector<std::int64_t> offset_per_key() const {
    std::vector<std::int64_t> offsets;
    for (std::size_t f = 0; f <= keys().size(); ++f) offsets.push_back(offset(f));
    return offsets;
  }

  /// Position of a key, or an IndexError that lists the keys there are.
  std::size_t index_of(std::string_view key) const {
    for (std::size_t f = 0; f < keys().size(); ++f)
      if (keys()[f] == key) return f;
    fail<IndexError>("KeyedJaggedTensor: no key '", key, "'; keys are ", keys());
  }

  /// One feature, as views.
  JaggedTensor operator[](std::string_view key) const { return feature(index_of(key)); }
  JaggedTensor feature(std::size_t f) const {
    const auto begin = offset(f), count = offset(f + 1) - begin;
    return {values_.narrow(0, begin, count), lengths_.narrow(0, static_cast<std::int64_t>(f) * stride_, stride_),
            is_weighted() ? weights_.narrow(0, begin, count) : at::Tensor{}};
  }

  /// Consecutive groups of keys of the given sizes; sizes sum to F. Views.
  std::vector<KeyedJaggedTensor> split(std::span<const std::int64_t> segments) const;
  /// The keys in the given order; an index may repeat, which repeats the feature under the same key. Copies.
  KeyedJaggedTensor permute(std::span<const std::int64_t> indices) const;
  /// Rows [begin, end) of every feature. Copies.
  KeyedJaggedTensor slice(std::int64_t begin, std::int64_t end) const;

  /// Ids and weights on `device`; lengths stay on the host.
  KeyedJaggedTensor to(at::Device device) const {
    auto moved = *this;
    moved.values_ = values_.to(device, /*non_blocking=*/true);                     // [N]
    if (is_weighted()) moved.weights_ = weights_.to(device, /*non_blocking=*/true);  // [N]
    return moved;
  }

 private:
  enum class Checks { none, all };
  KeyedJaggedTensor(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths, at::Tensor weights, std::int64_t stride)
      : KeyedJaggedTensor(Checks::all, std::move(keys), std::move(values), std::move(lengths), std::move(weights), stride) {}
  KeyedJaggedTensor(Checks checks, std::vector<std::string> keys, at::Tensor values, at::Tensor lengths, at::Tensor weights,
                    std::int64_t stride)
      : keys_(std::make_shared<const std::vector<std::string>>(std::move(keys))), values_(std::move(values)),
        lengths_(std::move(lengths)), weights_(std::move(weights)), stride_(stride) {
    if (stride_ < 0) stride_ = keys_->empty() ? 0 : lengths_.numel() / static_cast<std::int64_t>(keys_->size());
    if (checks == Checks::all) validate();                                         // before lengths are added up
    offsets_ = offsets_of(lengths_);                                               // [F * B + 1]
  }

  static at::Tensor host_int64(const at::Tensor& tensor, std::string_view what);
  static at::Tensor lengths_from(const at::Tensor& offsets, std::int64_t values);
  void validate() const;

  /// Where the ids of key f start.
  std::int64_t offset(std::size_t f) const { return offsets_.const_data_ptr<std::int64_t>()[static_cast<std::int64_t>(f) * stride_]; }
  std::size_t count() const { return keys_->size(); }

  std::shared_ptr<const std::vector<std::string>> keys_;
  at::Tensor values_, lengths_, offsets_, weights_;
  std::int64_t stride_ = 0;
};

inline at::Tensor KeyedJaggedTensor::host_int64(const at::Tensor& tensor, std::string_view what) {
  check<ShapeError>(tensor.defined() && tensor.dim() == 1, "KeyedJaggedTensor: ", what, " must be a tensor of one dimension");
  check<ShapeError>(tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt, "KeyedJaggedTensor: ", what,
                    " has dtype ", c10::toString(tensor.scalar_type()), "; it must be int64 or int32");
  return tensor.to(at::kCPU, at::kLong).contiguous();                              // [F * B] or [F * B + 1]
}

inline at::Tensor KeyedJaggedTensor::lengths_from(const at::Tensor& offsets, std::int64_t values) {
  const auto n = offsets.numel() - 1;
  check<ShapeError>(n >= 0, "KeyedJaggedTensor: offsets is empty; it must have keys * batch + 1 entries");
  const auto* at = offsets.const_data_ptr<std::int64_t>();
  check<ShapeError>(at[0] == 0, "KeyedJaggedTensor: offsets starts at ", at[0], "; it must start at 0");
  check<ShapeError>(at[n] == values, "KeyedJaggedTensor: offsets ends at ", at[n], " but there are ", values, " values");
  auto lengths = at::empty({n}, at::kLong);                                        // [F * B]
  auto* to = lengths.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    check<ShapeError>(at[i] <= at[i + 1], "KeyedJaggedTensor: offsets decreases from ", at[i], " to ", at[i + 1], " at entry ", i + 1);
    to[i] = at[i + 1] - at[i];
  }
  return lengths;
}

inline void KeyedJaggedTensor::validate() const {
  check<ShapeError>(values_.defined() && values_.dim() == 1, "KeyedJaggedTensor: values must be a tensor of one dimension");
  check<ShapeError>(values_.scalar_type() == at::kLong || values_.scalar_type() == at::kInt, "KeyedJaggedTensor: values has dtype ",
                    c10::toString(values_.scalar_type()), "; ids are int64 or int32");
  for (std::size_t f = 0; f < count(); ++f)
    for (std::size_t g = 0; g < f; ++g)
      check<ShapeError>(keys()[f] != keys()[g], "KeyedJaggedTensor: key '", keys()[f], "' is given twice");
  const auto keyed = static_cast<std::int64_t>(count());
  check<ShapeError>(lengths_.numel() == keyed * stride_, "KeyedJaggedTensor: lengths has ", lengths_.numel(), " entries; keys (", keyed,
                    ") * batch (", stride_, ") = ", keyed * stride_);
  const auto* length = lengths_.const_data_ptr<std::int64_t>();
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < lengths_.numel(); ++i) {
    check<ShapeError>(length[i] >= 0 && length[i] <= values_.numel(), "KeyedJaggedTensor: length ", length[i], " at entry ", i, " with ",
                      values_.numel(), " values");
    total += length[i];
  }
  check<ShapeError>(total == values_.numel(), "KeyedJaggedTensor: lengths sum to ", total, " but there are ", values_.numel(), " values");
  if (!weights_.defined()) return;
  check<ShapeError>(weights_.dim() == 1 && weights_.numel() == values_.numel(), "KeyedJaggedTensor: ", weights_.numel(), " weights for ",
                    values_.numel(), " values");
  check<ShapeError>(weights_.is_floating_point(), "KeyedJaggedTensor: weights has dtype ", c10::toString(weights_.scalar_type()),
                    "; it must be floating");
}

inline std::vector<KeyedJaggedTensor> KeyedJaggedTensor::split(std::span<const std::int64_t> segments) const {
  std::vector<KeyedJaggedTensor> parts;
  std::size_t first = 0;
  for (const auto size : segments) {
    check<ShapeError>(size >= 0 && first + static_cast<std::size_t>(size) <= count(), "KeyedJaggedTensor: split sizes ", segments,
                      " do not sum to its ", count(), " keys");
    const auto last = first + static_cast<std::size_t>(size);
    const auto begin = offset(first), length = offset(last) - begin;
    parts.push_back({Checks::none,
                     {keys().begin() + static_cast<std::ptrdiff_t>(first), keys().begin() + static_cast<std::ptrdiff_t>(last)},
                     values_.narrow(0, begin, length),
                     lengths_.narrow(0, static_cast<std::int64_t>(first) * stride_, size * stride_),
                     is_weighted() ? weights_.narrow(0, begin, length) : at::Tensor{},
                     stride_});
    first = last;
  }
  check<ShapeError>(first == count(), "KeyedJaggedTensor: split sizes ", segments, " do not sum to its ", count(), " keys");
  return parts;
}

inline KeyedJaggedTensor KeyedJaggedTensor::permute(std::span<const std::int64_t> indices) const {
  std::vector<std::string> names;
  std::vector<at::Tensor> values, lengths, weights;
  for (const auto index : indices) {
    check<IndexError>(index >= 0 && index < static_cast<std::int64_t>(count()), "KeyedJaggedTensor: permute index ", index, " of ",
                      count(), " keys");
    const auto one = feature(static_cast<std::size_t>(index));
    names.push_back(keys()[static_cast<std::size_t>(index)]);
    values.push_back(one.values());
    lengths.push_back(one.lengths());
    if (is_weighted()) weights.push_back(one.weights());
  }
  if (indices.empty())
    return {Checks::none, {}, values_.narrow(0, 0, 0), lengths_.narrow(0, 0, 0), is_weighted() ? weights_.narrow(0, 0, 0) : at::Tensor{},
            stride_};
  return {Checks::none, std::move(names), at::cat(values), at::cat(lengths), is_weighted() ? at::cat(weights) : at::Tensor{}, stride_};
}

inline KeyedJaggedTensor KeyedJaggedTensor::slice(std::int64_t begin, std::int64_t end) const {
  check<IndexError>(0 <= begin && begin <= end && end <= stride_, "KeyedJaggedTensor: rows ", begin, " to ", end, " of a batch of ",
                    stride_);
  std::vector<at::Tensor> values, lengths, weights;
  const auto* at = offsets_.const_data_ptr<std::int64_t>();
  for (std::int64_t f = 0; f < static_cast<std::int64_t>(count()); ++f) {
    const auto from = at[f * stride_ + begin], length = at[f * stride_ + end] - from;
    values.push_back(values_.narrow(0, from, length));
    lengths.push_back(lengths_.narrow(0, f * stride_ + begin, end - begin));
    if (is_weighted()) weights.push_back(weights_.narrow(0, from, length));
  }
  if (values.empty()) return {Checks::none, {}, values_, lengths_, weights_, end - begin};
  return {Checks::none, keys(), at::cat(values), at::cat(lengths), is_weighted() ? at::cat(weights) : at::Tensor{}, end - begin};
}

inline KeyedJaggedTensor KeyedJaggedTensor::concat(std::span<const KeyedJaggedTensor> parts) {
  if (parts.empty()) return {};
  std::vector<std::string> names;
  std::vector<at::Tensor> values, lengths, weights;
  for (const auto& part : parts) {
    check<ShapeError>(part.stride() == parts[0].stride(), "KeyedJaggedTensor: concat of batches of ", parts[0].stride(), " and ",
                      part.stride(), " rows");
    check<ShapeError>(part.is_weighted() == parts[0].is_weighted(), "KeyedJaggedTensor: concat of weighted and unweighted features");
    names.insert(names.end(), part.keys().begin(), part.keys().end());
    values.push_back(part.values());
    lengths.push_back(part.lengths());
    if (part.is_weighted()) weights.push_back(part.weights());
  }
  return {std::move(names), at::cat(values), at::cat(lengths), weights.empty() ? at::Tensor{} : at::cat(weights), parts[0].stride()};
}

}  // namespace rookery
