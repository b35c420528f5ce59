// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What every batch can do once it lists its members: move to a device, be pinned, be held for a stream, and be sliced by rows.
//
// Source: torchrec's Pipelineable, derived instead of written by hand.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <type_traits>

#include <rookery/concepts/batch.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/sparse/jagged_tensor.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>
#include <rookery/sparse/keyed_tensor.hpp>

namespace rookery {

namespace detail {

template <class T>
concept SparseMember = std::is_same_v<T, KeyedJaggedTensor> || std::is_same_v<T, JaggedTensor> || std::is_same_v<T, KeyedTensor>;

/// `batch` with each tensor and each container of the library replaced by `fn(name, member)`; tensors that are not defined stay so.
template <class Batch, class Fn> Batch map_tensors(const Batch& batch, Fn&& fn) {
  Batch mapped = batch;
  visit_leaves(mapped, "", [&]<class Leaf>(std::string_view name, Leaf& leaf) {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) {
      if (leaf.defined()) leaf = fn(name, leaf);
    } else if constexpr (SparseMember<Leaf>) {
      leaf = fn(name, leaf);
    }
  });
  return mapped;
}

template <class T, bool inside = false> constexpr bool has_plain_vector();
template <class... Value, class... Class> constexpr bool any_plain_vector(const Members<Value Class::*...>&) {
  return (has_plain_vector<Value>() || ...);
}
/// Whether T lists a vector or array of what is neither tensor nor container, such as numbers: nothing says how rows cut it.
template <class T, bool inside> constexpr bool has_plain_vector() {
  if constexpr (HasMembers<T>) return any_plain_vector(ListedMembers<T>::value);
  else if constexpr (is_sequence<T>::value) return has_plain_vector<typename T::value_type, true>();
  else if constexpr (is_optional<T>::value) return has_plain_vector<typename T::value_type, inside>();
  else if constexpr (is_named<T>::value) return has_plain_vector<decltype(T::value), inside>();
  else return inside && !std::is_same_v<T, at::Tensor> && !SparseMember<T>;
}

inline std::int64_t rows_of(const KeyedJaggedTensor& member) { return member.stride(); }
inline std::int64_t rows_of(const JaggedTensor& member) { return member.size(); }
inline std::int64_t rows_of(const KeyedTensor& member) { return member.size(); }

}  // namespace detail

/// A copy on `device`, asynchronous where the device allows; lengths of jagged members stay on the host.
template <HasMembers Batch> Batch to(const Batch& batch, at::Device device) {
  return detail::map_tensors(batch, [&]<class Leaf>(std::string_view, const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) return leaf.to(device, /*non_blocking=*/true);
    else return leaf.to(device);
  });
}

/// A copy whose tensors are on `device` and whose KeyedJaggedTensors stay where they are: what a model on a device computes with, and the
/// ids, which lookups read on the host.
template <HasMembers Batch> Batch dense_to(const Batch& batch, at::Device device) {
  return detail::map_tensors(batch, [&]<class Leaf>(std::string_view, const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, KeyedJaggedTensor>) return leaf;
    else if constexpr (std::is_same_v<Leaf, at::Tensor>) return leaf.to(device, /*non_blocking=*/true);
    else return leaf.to(device);
  });
}

/// A copy in pinned memory, from which a device reads without a stop. Errors: LibTorch's, where no device can use it.
template <HasMembers Batch> Batch pin_memory(const Batch& batch) {
  return detail::map_tensors(batch, []<class Leaf>(std::string_view, const Leaf& leaf) -> Leaf { return leaf.pin_memory(); });
}

/// Keeps every storage of the batch that lies on a device from reuse until `stream` has done what it was given by now. For a batch
/// that one stream made and another reads.
template <HasMembers Batch> void record_stream(const Batch& batch, c10::Stream stream) {
  visit_leaves(batch, "", [&]<class Leaf>(std::string_view, const Leaf& leaf) {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) detail::record_stream(leaf, stream);
    else if constexpr (detail::SparseMember<Leaf>) leaf.record_stream(stream);
  });
}

/// Rows [begin, end) of every tensor and container of the library that the batch lists. Tensors that are not defined stay so, and so do
/// single values; a listed vector or array of these is a compile error.
/// Errors: IndexError for rows that the batch does not have; ShapeError for a member of another number of rows than the batch.
template <HasMembers Batch>
  requires concepts::Batch<Batch>
Batch slice(const Batch& batch, std::int64_t begin, std::int64_t end) {
  static_assert(!detail::has_plain_vector<Batch>(),
                "rookery::slice: a vector or array of numbers or texts in members() of Batch would stay whole beside the rows; make it a "
                "tensor [B], or leave it out of members(), which copies it; see docs/concepts.md#batch");
  const std::int64_t rows = batch.size();
  check<IndexError>(0 <= begin && begin <= end && end <= rows, "slice: rows ", begin, " to ", end, " of a batch of ", rows);
  return detail::map_tensors(batch, [&]<class Leaf>(std::string_view name, const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) {
      check<ShapeError>(leaf.dim() > 0 && leaf.size(0) == rows, "slice: '", name, "' has shape ", leaf.sizes(), ", but the batch has ",
                        rows, " rows");
      return leaf.narrow(0, begin, end - begin);                                   // [end - begin, ...]
    } else {
      const auto own = detail::rows_of(leaf);
      check<ShapeError>(own == rows, "slice: '", name, "' has ", own, " rows, but the batch has ", rows);
      return leaf.slice(begin, end);
    }
  });
}

}  // namespace rookery
