// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Transforms of sparse features: ids hashed or reduced into a table's rows, long bags cut.
//
//   batch.ids = hash_into(batch.ids, "query", 1 << 20);  batch.ids = clip_lengths(batch.ids, "history", 50, Keep::last);
//
// Every transform is of one key or of all, and gives a new batch of the same keys and rows. They are for readers: ids on another
// device make the way to the host and back.  Answers to what torchrec leaves to the data pipeline.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

/// The 64-bit finaliser of MurmurHash3 (Appleby, public domain): every input bit changes half of the output bits, no two inputs meet.
constexpr std::uint64_t murmur3_finalizer(std::uint64_t key) {
  key = (key ^ key >> 33) * 0xff51afd7ed558ccdULL;
  key = (key ^ key >> 33) * 0xc4ceb9fe1a85ec53ULL;
  return key ^ key >> 33;
}

/// The row of `rows` that an id is hashed to: murmur3_finalizer(id ^ murmur3_finalizer(seed)) modulo the rows, the same in every version.
/// The hashed_row of a text, in data/vocabulary.hpp, and criteo_row follow laws of their own.
constexpr std::int64_t hashed_row(std::int64_t id, std::int64_t rows, std::uint64_t seed = 0) {
  const auto hash = murmur3_finalizer(static_cast<std::uint64_t>(id) ^ murmur3_finalizer(seed));
  return static_cast<std::int64_t>(hash % static_cast<std::uint64_t>(rows));
}

/// Which ids of a bag that is too long stay.
enum class Keep { first, last };

namespace detail {

/// Consecutive keys of a batch.
struct KeyRange { std::size_t begin, end; };
inline KeyRange all_keys(const KeyedJaggedTensor& features) { return {0, features.keys().size()}; }
inline KeyRange one_key(const KeyedJaggedTensor& features, std::string_view key) {
  const auto f = features.index_of(key);
  return {f, f + 1};
}

/// The ids of some keys replaced by `fn(id)`, which is in [0, rows).
template <class Fn>
KeyedJaggedTensor map_ids(std::string_view who, const KeyedJaggedTensor& features, KeyRange keys, std::int64_t rows, Fn&& fn) {
  check<ConfigError>(rows > 0, who, ": into ", rows, " rows; it must be 1 or more");
  const auto dtype = features.values().scalar_type();
  check<ConfigError>(dtype == at::kLong || rows - 1 <= std::numeric_limits<std::int32_t>::max(), who, ": into ", rows,
                     " rows, which int32 ids cannot name");
  auto ids = features.values().to(at::kCPU, at::kLong, /*non_blocking=*/false, /*copy=*/true).contiguous();   // [N]
  auto* id = ids.mutable_data_ptr<std::int64_t>() + features.offset_per_key()[keys.begin];
  const auto count = features.offset_per_key()[keys.end] - features.offset_per_key()[keys.begin];
  parallel(count, 16384, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) id[i] = fn(id[i]);
  });
  return features.with_bags(ids.to(features.values().device(), dtype), features.lengths(),
                            features.is_weighted() ? features.weights() : at::Tensor{});
}

inline KeyedJaggedTensor hash_into(const KeyedJaggedTensor& features, KeyRange keys, std::int64_t rows, std::uint64_t seed) {
  return map_ids("hash_into", features, keys, rows, [=](std::int64_t id) { return hashed_row(id, rows, seed); });
}

inline KeyedJaggedTensor modulo(const KeyedJaggedTensor& features, KeyRange keys, std::int64_t rows) {
  return map_ids("modulo", features, keys, rows, [=](std::int64_t id) {
    const auto rest = id % rows;
    return rest < 0 ? rest + rows : rest;
  });
}

inline KeyedJaggedTensor clip_lengths(const KeyedJaggedTensor& features, KeyRange keys, std::int64_t longest, Keep keep) {
  check<ConfigError>(longest >= 0, "clip_lengths: to ", longest, " ids; it must be 0 or more");
  const auto first = features.lengths_offset_per_key()[keys.begin], last = features.lengths_offset_per_key()[keys.end];
  const auto* offset = features.offsets().const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> lengths, positions;
  for (std::int64_t bag = 0; bag < features.lengths().numel(); ++bag) {
    const auto length = offset[bag + 1] - offset[bag];
    lengths.push_back(bag >= first && bag < last ? std::min(length, longest) : length);
    const auto begin = keep == Keep::first ? offset[bag] : offset[bag + 1] - lengths.back();
    for (std::int64_t i = 0; i < lengths.back(); ++i) positions.push_back(begin + i);
  }
  if (static_cast<std::int64_t>(positions.size()) == features.values().numel()) return features;
  const auto kept = host_tensor(positions).to(features.values().device());         // [ids that stay]
  return features.with_bags(features.values().index_select(0, kept), host_tensor(lengths),
                            features.is_weighted() ? features.weights().index_select(0, kept) : at::Tensor{});
}

}  // namespace detail

/// Ids hashed into [0, rows), whatever they were, negative ones included. Different ids may meet: with as many rows as ids, 63 % of the
/// ids share their row with another; with ten times as many, 10 %. Another seed brings other ids together.
/// Errors: ConfigError for less than one row, or more than int32 ids can name; IndexError for an unknown key.
inline KeyedJaggedTensor hash_into(const KeyedJaggedTensor& features, std::int64_t rows, std::uint64_t seed = 0) {
  return detail::hash_into(features, detail::all_keys(features), rows, seed);
}
inline KeyedJaggedTensor hash_into(const KeyedJaggedTensor& features, std::string_view key, std::int64_t rows, std::uint64_t seed = 0) {
  return detail::hash_into(features, detail::one_key(features, key), rows, seed);
}

/// Ids modulo `rows`, in [0, rows) also for negative ids. For ids that were hashed already.
/// Errors: as `hash_into`.
inline KeyedJaggedTensor modulo(const KeyedJaggedTensor& features, std::int64_t rows) {
  return detail::modulo(features, detail::all_keys(features), rows);
}
inline KeyedJaggedTensor modulo(const KeyedJaggedTensor& features, std::string_view key, std::int64_t rows) {
  return detail::modulo(features, detail::one_key(features, key), rows);
}

/// Bags of at most `longest` ids, their weights with them. Gradients reach the weights that stay.
/// Errors: ConfigError for a negative length; IndexError for an unknown key.
inline KeyedJaggedTensor clip_lengths(const KeyedJaggedTensor& features, std::int64_t longest, Keep keep = Keep::first) {
  return detail::clip_lengths(features, detail::all_keys(features), longest, keep);
}
inline KeyedJaggedTensor clip_lengths(const KeyedJaggedTensor& features, std::string_view key, std::int64_t longest,
                                      Keep keep = Keep::first) {
  return detail::clip_lengths(features, detail::one_key(features, key), longest, keep);
}

}  // namespace rookery
