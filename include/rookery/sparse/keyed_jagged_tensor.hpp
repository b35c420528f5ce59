// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// KeyedJaggedTensor: the sparse part of a batch, F features with a bag of ids per row each.
//
// Answers to torchrec/sparse/jagged_tensor.py KeyedJaggedTensor: key-major layout, lengths[f * B + b], and batches whose keys
// differ in their rows ("VBE"). Checked when it is built, inner offsets included, so that no later code has to. Lengths and
// offsets stay on the host.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sparse/jagged_tensor.hpp>
#include <rookery/sparse/validate.hpp>
#include <rookery/sparse/variable_batch.hpp>

namespace rookery {

/// F features by B rows of bags of ids, optionally weighted. A value type: copies share their tensors and keys.
///
/// Shapes:  values [N], lengths [F * B] or offsets [F * B + 1], weights [N] or undefined; any of F, B, N may be 0. Where keys differ
///          in their rows, lengths [sum of the rows].
/// Dtypes:  values int64 or int32; lengths and offsets int64 or int32, moved to the host as int64; weights floating.
/// Errors:  ShapeError for duplicate keys, a length of lengths that no batch size gives, negative lengths, offsets that do not
///          start at 0, decrease, or do not end at N, and weights of another length than the values. IndexError for inverse indices
///          of rows that their key does not have.
/// Cost:    O(F * B) at construction; splits are views of values and weights.
/// Source:  torchrec KeyedJaggedTensor; differs: every inner offset is checked, and split and permute keep inverse indices.
class KeyedJaggedTensor {
 public:
  /// Each key's feature, in the order of the keys.
  using Features = std::vector<std::pair<std::string, JaggedTensor>>;

  KeyedJaggedTensor() : KeyedJaggedTensor(empty()) {}

  /// From lengths [F * B]. With no keys the batch size cannot be told from them: give `stride`.
  static KeyedJaggedTensor from_lengths(std::vector<std::string> keys, at::Tensor values, const at::Tensor& lengths,
                                        at::Tensor weights = {}, std::int64_t stride = -1) {
    return checked(std::move(keys), std::move(values), detail::host_int64(name, lengths, "lengths"), std::move(weights), stride);
  }
  /// From lengths [sum of the rows], rows per key.
  static KeyedJaggedTensor from_lengths(std::vector<std::string> keys, at::Tensor values, const at::Tensor& lengths, at::Tensor weights,
                                        const VariableBatch& rows) {
    return checked(std::move(keys), std::move(values), detail::host_int64(name, lengths, "lengths"), std::move(weights), rows);
  }
  /// From offsets [F * B + 1].
  static KeyedJaggedTensor from_offsets(std::vector<std::string> keys, at::Tensor values, const at::Tensor& offsets,
                                        at::Tensor weights = {}, std::int64_t stride = -1) {
    auto lengths = detail::lengths_from(name, detail::host_int64(name, offsets, "offsets"), values.numel());   // [F * B]
    return checked(std::move(keys), std::move(values), std::move(lengths), std::move(weights), stride);
  }
  /// From offsets [sum of the rows + 1], rows per key.
  static KeyedJaggedTensor from_offsets(std::vector<std::string> keys, at::Tensor values, const at::Tensor& offsets, at::Tensor weights,
                                        const VariableBatch& rows) {
    auto lengths = detail::lengths_from(name, detail::host_int64(name, offsets, "offsets"), values.numel());   // [sum of the rows]
    return checked(std::move(keys), std::move(values), std::move(lengths), std::move(weights), rows);
  }
  /// From features of equal rows and weightedness, their ids joined by copying. The opposite of `to_dict`.
  static KeyedJaggedTensor from_jt_dict(const Features& features);
  /// No keys, no ids, no rows.
  static KeyedJaggedTensor empty(bool is_weighted = false, at::ScalarType values = at::kLong, at::ScalarType weights = at::kFloat);
  /// No keys and no ids, but the dtypes, device, weightedness and rows of `batch`.
  static KeyedJaggedTensor empty_like(const KeyedJaggedTensor& batch) { return batch.permute({}); }
  /// Joins the keys of batches of equal rows and weightedness. Copies.
  /// Errors: ShapeError when rows or weightedness differ, or only some batches have rows per key, or inverse indices.
  static KeyedJaggedTensor concat(std::span<const KeyedJaggedTensor> parts);

  const std::vector<std::string>& keys() const { return layout_->keys; }
  const at::Tensor& values() const { return values_; }                             // [N]
  const at::Tensor& lengths() const { return lengths_; }                           // [F * B]
  const at::Tensor& offsets() const { return offsets_; }                           // [F * B + 1]
  bool is_weighted() const { return weights_.defined(); }
  const at::Tensor& weights() const {                                              // [N]
    check<ShapeError>(is_weighted(), "KeyedJaggedTensor: weights() asked of a batch without weights");
    return weights_;
  }

  /// Rows of the batch, B. Where keys differ in their rows: those of the inverse indices, or the most of any key.
  std::int64_t stride() const { return stride_; }
  /// Whether the batch was given rows per key.
  bool variable_stride_per_key() const { return layout_->is_variable; }
  /// Rows of each key [F].
  const std::vector<std::int64_t>& stride_per_key() const { return layout_->stride_per_key; }
  /// Where each key's lengths start, and their number at the end [F + 1].
  const std::vector<std::int64_t>& lengths_offset_per_key() const { return layout_->lengths_offset_per_key; }
  /// Ids of each key [F].
  const std::vector<std::int64_t>& length_per_key() const { return layout_->length_per_key; }
  /// Where each key's ids start, and N at the end [F + 1].
  const std::vector<std::int64_t>& offset_per_key() const { return layout_->offset_per_key; }
  /// Position of each key; of one that is repeated, the first.
  const std::unordered_map<std::string_view, std::size_t>& index_per_key() const { return layout_->index_per_key; }
  bool has_inverse_indices() const { return inverse_indices_.defined(); }
  /// Row b of the batch is row inverse_indices[f, b] of key f. On the device of the ids, as int64.
  const at::Tensor& inverse_indices() const {                                      // [F, B]
    check<ShapeError>(has_inverse_indices(), "KeyedJaggedTensor: inverse_indices() asked of a batch without them");
    return inverse_indices_;
  }

  bool contains(std::string_view key) const { return index_per_key().contains(key); }
  /// Position of a key, or an IndexError that lists the keys there are.
  std::size_t index_of(std::string_view key) const {
    const auto found = index_per_key().find(key);
    if (found == index_per_key().end()) fail<IndexError>("KeyedJaggedTensor: no key '", key, "'; keys are ", keys());
    return found->second;
  }

  /// One feature, as views.
  JaggedTensor operator[](std::string_view key) const { return feature(index_of(key)); }
  JaggedTensor feature(std::size_t f) const {
    check<IndexError>(f < count(), "KeyedJaggedTensor: feature ", f, " of ", count(), " keys");
    return rows_of(lengths_offset_per_key()[f], stride_per_key()[f]);
  }
  /// Every feature with its key, as views.
  Features to_dict() const {
    Features features;
    for (std::size_t f = 0; f < count(); ++f) features.emplace_back(keys()[f], feature(f));
    return features;
  }

  /// Consecutive groups of keys of the given sizes; sizes sum to F. Views. Every group keeps the rows of the batch.
  std::vector<KeyedJaggedTensor> split(std::span<const std::int64_t> segments) const;
  /// The keys in the given order; an index may repeat, which repeats the feature under the same key. Copies.
  KeyedJaggedTensor permute(std::span<const std::int64_t> indices) const;
  /// Rows [begin, end) of every feature, repeated ones written out. Copies.
  /// Errors: ShapeError where keys differ in their rows and no inverse indices say which belong together.
  KeyedJaggedTensor slice(std::int64_t begin, std::int64_t end) const;
  /// The batch of equal rows that the inverse indices stand for, repeated rows written out; without rows per key the batch itself.
  /// Errors: ShapeError where keys differ in their rows without inverse indices.
  KeyedJaggedTensor expanded() const;
  /// The batch with those of `wanted` that it lacks behind its own keys, with B rows without ids each. Nothing is copied but lengths.
  KeyedJaggedTensor with_keys(std::span<const std::string> wanted) const;
  /// The same keys and rows per key with other bags, checked. `lengths` as those of the batch.
  KeyedJaggedTensor with_bags(at::Tensor values, const at::Tensor& lengths, at::Tensor weights = {}) const;

  /// Ids, weights and inverse indices on `device`; lengths stay on the host.
  KeyedJaggedTensor to(at::Device device) const {
    return with_tensors([&](const at::Tensor& tensor) { return tensor.to(device, /*non_blocking=*/true); });
  }
  /// Ids, weights and inverse indices in pinned memory. Errors: LibTorch's, where no device can use it.
  KeyedJaggedTensor pin_memory() const {
    return with_tensors([](const at::Tensor& tensor) { return tensor.pin_memory(); });
  }
  /// Keeps every storage on a device from reuse until `stream` has done what it was given by now.
  void record_stream(c10::Stream stream) const {
    for (const auto* tensor : {&values_, &weights_, &inverse_indices_}) detail::record_stream(*tensor, stream);
  }

 private:
  static constexpr std::string_view name = "KeyedJaggedTensor";

  /// What is known of the keys: shared by copies, and by the same batch elsewhere.
  struct Layout {
    std::vector<std::string> keys;
    std::unordered_map<std::string_view, std::size_t> index_per_key;
    std::vector<std::int64_t> stride_per_key, lengths_offset_per_key, length_per_key, offset_per_key;
    bool is_variable = false;
  };

  /// Parts that fit together: rows per key [F], the rows of the batch, and inverse indices [F, B] or undefined.
  KeyedJaggedTensor(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths, at::Tensor weights,
                    std::vector<std::int64_t> stride_per_key, bool is_variable, std::int64_t stride, at::Tensor inverse_indices = {});

  static KeyedJaggedTensor checked(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths, at::Tensor weights,
                                   std::int64_t stride);
  static KeyedJaggedTensor checked(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths, at::Tensor weights,
                                   const VariableBatch& rows);

  std::size_t count() const { return keys().size(); }
  /// `rows` rows of one key whose lengths start at `first`, as views.
  JaggedTensor rows_of(std::int64_t first, std::int64_t rows) const;
  /// Features of this batch's kind joined under `keys`.
  KeyedJaggedTensor joined(std::vector<std::string> keys, std::span<const JaggedTensor> features, bool is_variable, std::int64_t stride,
                           at::Tensor inverse_indices) const;
  template <class Fn> KeyedJaggedTensor with_tensors(Fn&& fn) const {
    auto other = *this;
    for (auto* tensor : {&other.values_, &other.weights_, &other.inverse_indices_})
      if (tensor->defined()) *tensor = fn(*tensor);
    return other;
  }

  std::shared_ptr<const Layout> layout_;
  at::Tensor values_, lengths_, offsets_, weights_, inverse_indices_;
  std::int64_t stride_ = 0;
};

inline KeyedJaggedTensor::KeyedJaggedTensor(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths, at::Tensor weights,
                                            std::vector<std::int64_t> stride_per_key, bool is_variable, std::int64_t stride,
                                            at::Tensor inverse_indices)
    : values_(std::move(values)), lengths_(std::move(lengths)), offsets_(offsets_of(lengths_)), weights_(std::move(weights)),
      inverse_indices_(std::move(inverse_indices)), stride_(stride) {
  auto layout = std::make_shared<Layout>();
  layout->keys = std::move(keys);
  layout->is_variable = is_variable;
  layout->stride_per_key = std::move(stride_per_key);
  layout->lengths_offset_per_key = {0};
  layout->offset_per_key = {0};
  const auto* offset = offsets_.const_data_ptr<std::int64_t>();
  for (std::size_t f = 0; f < layout->keys.size(); ++f) {
    layout->index_per_key.emplace(layout->keys[f], f);
    layout->lengths_offset_per_key.push_back(layout->lengths_offset_per_key[f] + layout->stride_per_key[f]);
    layout->offset_per_key.push_back(offset[layout->lengths_offset_per_key[f + 1]]);
    layout->length_per_key.push_back(layout->offset_per_key[f + 1] - layout->offset_per_key[f]);
  }
  layout_ = std::move(layout);
}

inline KeyedJaggedTensor KeyedJaggedTensor::checked(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths,
                                                    at::Tensor weights, std::int64_t stride) {
  const auto count = static_cast<std::int64_t>(keys.size()), entries = lengths.numel();
  if (stride < 0) stride = count == 0 ? 0 : entries / count;
  detail::check_keys(name, keys);
  check<ShapeError>(count == 0 ? entries == 0 : entries % count == 0 && entries / count == stride, "KeyedJaggedTensor: lengths has ",
                    entries, " entries for keys (", count, ") * batch (", stride, ")");
  detail::check_bags(name, values, lengths, weights);
  return {std::move(keys), std::move(values), std::move(lengths), std::move(weights),
          std::vector<std::int64_t>(static_cast<std::size_t>(count), stride), false, stride};
}

inline KeyedJaggedTensor KeyedJaggedTensor::checked(std::vector<std::string> keys, at::Tensor values, at::Tensor lengths,
                                                    at::Tensor weights, const VariableBatch& rows) {
  detail::check_keys(name, keys);
  auto strides = detail::strides_of(rows, keys, lengths.numel());
  detail::check_bags(name, values, lengths, weights);
  auto stride = strides.empty() ? 0 : *std::max_element(strides.begin(), strides.end());
  at::Tensor inverse;
  if (rows.inverse_indices.indices.defined()) {
    inverse = detail::inverse_of(rows.inverse_indices, keys, strides, values.device());                // [F, B]
    stride = inverse.size(1);
  }
  return {std::move(keys), std::move(values), std::move(lengths), std::move(weights), std::move(strides), true, stride,
          std::move(inverse)};
}

inline JaggedTensor KeyedJaggedTensor::rows_of(std::int64_t first, std::int64_t rows) const {
  const auto* offset = offsets_.const_data_ptr<std::int64_t>() + first;
  const auto begin = offset[0], ids = offset[rows] - begin;
  return {detail::Checks::none, values_.narrow(0, begin, ids), lengths_.narrow(0, first, rows),
          is_weighted() ? weights_.narrow(0, begin, ids) : at::Tensor{}};
}

inline KeyedJaggedTensor KeyedJaggedTensor::joined(std::vector<std::string> keys, std::span<const JaggedTensor> features, bool is_variable,
                                                   std::int64_t stride, at::Tensor inverse_indices) const {
  std::vector<at::Tensor> values{values_.narrow(0, 0, 0)}, lengths{lengths_.narrow(0, 0, 0)}, weights;
  if (is_weighted()) weights.push_back(weights_.narrow(0, 0, 0));
  std::vector<std::int64_t> strides;
  for (const auto& feature : features) {
    values.push_back(feature.values());
    lengths.push_back(feature.lengths());
    if (is_weighted()) weights.push_back(feature.weights());
    strides.push_back(feature.size());
  }
  return {std::move(keys), ops::cat(values), ops::cat(lengths), is_weighted() ? ops::cat(weights) : at::Tensor{}, std::move(strides),
          is_variable, stride, std::move(inverse_indices)};
}

inline KeyedJaggedTensor KeyedJaggedTensor::empty(bool is_weighted, at::ScalarType values, at::ScalarType weights) {
  return checked({}, ops::empty({0}, values), ops::empty({0}, at::kLong), is_weighted ? ops::empty({0}, weights) : at::Tensor{}, 0);
}

inline KeyedJaggedTensor KeyedJaggedTensor::from_jt_dict(const Features& features) {
  std::vector<KeyedJaggedTensor> parts;
  for (const auto& [key, feature] : features)
    parts.push_back(checked({key}, feature.values(), feature.lengths(), feature.weights_, feature.size()));
  return concat(parts);
}

inline std::vector<KeyedJaggedTensor> KeyedJaggedTensor::split(std::span<const std::int64_t> segments) const {
  std::vector<KeyedJaggedTensor> parts;
  std::size_t first = 0;
  for (const auto size : segments) {
    check<ShapeError>(size >= 0 && static_cast<std::size_t>(size) <= count() - first, "KeyedJaggedTensor: split sizes ", segments,
                      " do not sum to its ", count(), " keys");
    const auto last = first + static_cast<std::size_t>(size);
    const auto cut = [&](const auto& all) { return std::vector(all.begin() + std::ptrdiff_t(first), all.begin() + std::ptrdiff_t(last)); };
    const auto begin = offset_per_key()[first], length = offset_per_key()[last] - begin;
    const auto row = lengths_offset_per_key()[first];
    parts.push_back({cut(keys()), values_.narrow(0, begin, length), lengths_.narrow(0, row, lengths_offset_per_key()[last] - row),
                     is_weighted() ? weights_.narrow(0, begin, length) : at::Tensor{}, cut(stride_per_key()), variable_stride_per_key(),
                     stride_, has_inverse_indices() ? inverse_indices_.narrow(0, std::int64_t(first), size) : at::Tensor{}});
    first = last;
  }
  check<ShapeError>(first == count(), "KeyedJaggedTensor: split sizes ", segments, " do not sum to its ", count(), " keys");
  return parts;
}

inline KeyedJaggedTensor KeyedJaggedTensor::permute(std::span<const std::int64_t> indices) const {
  std::vector<std::string> names;
  std::vector<JaggedTensor> features;
  for (const auto index : indices) {
    check<IndexError>(index >= 0 && index < static_cast<std::int64_t>(count()), "KeyedJaggedTensor: permute index ", index, " of ",
                      count(), " keys");
    names.push_back(keys()[static_cast<std::size_t>(index)]);
    features.push_back(feature(static_cast<std::size_t>(index)));
  }
  at::Tensor inverse;
  if (has_inverse_indices())
    inverse = inverse_indices_.index_select(0, detail::host_tensor(indices).to(inverse_indices_.device()));   // [indices, B]
  return joined(std::move(names), features, variable_stride_per_key(), stride_, std::move(inverse));
}

inline KeyedJaggedTensor KeyedJaggedTensor::slice(std::int64_t begin, std::int64_t end) const {
  check<IndexError>(0 <= begin && begin <= end && end <= stride_, "KeyedJaggedTensor: rows ", begin, " to ", end, " of a batch of ",
                    stride_);
  if (variable_stride_per_key()) return expanded().slice(begin, end);
  std::vector<JaggedTensor> features;
  for (std::size_t f = 0; f < count(); ++f) features.push_back(rows_of(lengths_offset_per_key()[f] + begin, end - begin));
  return joined(keys(), features, false, end - begin, {});
}

inline KeyedJaggedTensor KeyedJaggedTensor::expanded() const {
  if (!variable_stride_per_key()) return *this;
  const auto differs = [&](std::int64_t rows) { return rows != stride_; };
  check<ShapeError>(has_inverse_indices() || std::none_of(stride_per_key().begin(), stride_per_key().end(), differs),
                    "KeyedJaggedTensor: keys have ", stride_per_key(), " rows and no inverse indices to say which belong together");
  std::vector<std::int64_t> lengths, positions;
  const auto inverse = has_inverse_indices() ? inverse_indices_.to(at::kCPU).contiguous() : at::Tensor{};   // [F, B]
  const auto* index = has_inverse_indices() ? inverse.const_data_ptr<std::int64_t>() : nullptr;
  const auto* offset = offsets_.const_data_ptr<std::int64_t>();
  for (std::size_t f = 0; f < count(); ++f)
    for (std::int64_t b = 0; b < stride_; ++b) {
      const auto bag = lengths_offset_per_key()[f] + (index ? *index++ : b);
      for (auto i = offset[bag]; i < offset[bag + 1]; ++i) positions.push_back(i);
      lengths.push_back(offset[bag + 1] - offset[bag]);
    }
  const auto at = detail::host_tensor(positions).to(values_.device());             // [N]
  return {keys(), values_.index_select(0, at), detail::host_tensor(lengths), is_weighted() ? weights_.index_select(0, at) : at::Tensor{},
          std::vector<std::int64_t>(count(), stride_), false, stride_};
}

inline KeyedJaggedTensor KeyedJaggedTensor::with_keys(std::span<const std::string> wanted) const {
  auto names = keys();
  for (const auto& key : wanted)
    if (std::find(names.begin(), names.end(), key) == names.end()) names.push_back(key);
  const auto missing = static_cast<std::int64_t>(names.size() - count());
  if (missing == 0) return *this;
  auto strides = stride_per_key();
  strides.resize(names.size(), stride_);
  auto inverse = inverse_indices_;                                                 // [F, B]
  if (has_inverse_indices()) {
    auto own = ops::empty({missing, stride_}, at::kLong);                          // [missing, B]: row b of each is its row b
    auto* to = own.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < own.numel(); ++i) to[i] = i % stride_;
    inverse = ops::cat({inverse, own.to(inverse.device())});                       // [F + missing, B]
  }
  const std::vector<std::int64_t> no_ids(static_cast<std::size_t>(missing * stride_));
  return {std::move(names), values_, ops::cat({lengths_, detail::host_tensor(no_ids)}), weights_, std::move(strides),
          variable_stride_per_key(), stride_, std::move(inverse)};
}

inline KeyedJaggedTensor KeyedJaggedTensor::with_bags(at::Tensor values, const at::Tensor& lengths, at::Tensor weights) const {
  auto host = detail::host_int64(name, lengths, "lengths");                        // [F * B]
  check<ShapeError>(host.numel() == lengths_.numel(), "KeyedJaggedTensor: ", host.numel(), " lengths for a batch of ", lengths_.numel());
  detail::check_bags(name, values, host, weights);
  return {keys(), std::move(values), std::move(host), std::move(weights), stride_per_key(), variable_stride_per_key(), stride_,
          inverse_indices_};
}

inline KeyedJaggedTensor KeyedJaggedTensor::concat(std::span<const KeyedJaggedTensor> parts) {
  if (parts.empty()) return {};
  const auto& first = parts[0];
  std::vector<std::string> names;
  std::vector<JaggedTensor> features;
  std::vector<at::Tensor> inverse;
  auto stride = first.stride();
  for (const auto& part : parts) {
    check<ShapeError>(part.variable_stride_per_key() == first.variable_stride_per_key() &&
                          part.has_inverse_indices() == first.has_inverse_indices(),
                      "KeyedJaggedTensor: concat of batches with and without rows per key, or inverse indices");
    check<ShapeError>(part.stride() == stride || (first.variable_stride_per_key() && !first.has_inverse_indices()),
                      "KeyedJaggedTensor: concat of batches of ", stride, " and ", part.stride(), " rows");
    check<ShapeError>(part.is_weighted() == first.is_weighted(), "KeyedJaggedTensor: concat of weighted and unweighted features");
    if (part.values().device() != first.values().device())
      fail<ShapeError>("KeyedJaggedTensor: concat of ids on ", first.values().device().str(), " and ", part.values().device().str());
    stride = std::max(stride, part.stride());
    if (part.has_inverse_indices()) inverse.push_back(part.inverse_indices());
    for (std::size_t f = 0; f < part.count(); ++f) {
      names.push_back(part.keys()[f]);
      features.push_back(part.feature(f));
    }
  }
  detail::check_keys(name, names);
  return first.joined(std::move(names), features, first.variable_stride_per_key(), stride,
                      inverse.empty() ? at::Tensor{} : ops::cat(inverse));
}

}  // namespace rookery
