// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What every batch can do once it lists its members: move to a device, and be sliced by rows.
//
// Source: torchrec's Pipelineable, derived instead of written by hand.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <type_traits>

#include <rookery/concepts/batch.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

namespace detail {

/// `batch` with each tensor and jagged member replaced by `fn(name, member)`.
template <class Batch, class Fn> Batch map_tensors(const Batch& batch, Fn&& fn) {
  Batch mapped = batch;
  visit_leaves(mapped, "", [&](std::string_view name, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, at::Tensor> || std::is_same_v<Leaf, KeyedJaggedTensor>) leaf = fn(name, leaf);
  });
  return mapped;
}

}  // namespace detail

/// A copy on `device`, asynchronous where the device allows; lengths of jagged members stay on the host.
template <HasMembers Batch> Batch to(const Batch& batch, at::Device device) {
  return detail::map_tensors(batch, [&]<class Leaf>(std::string_view, const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) return leaf.defined() ? leaf.to(device, /*non_blocking=*/true) : leaf;
    else return leaf.to(device);
  });
}

/// Rows [begin, end) of every member; tensors that are not defined stay so.
/// Errors: IndexError for rows that the batch does not have; ShapeError for a member of another number of rows than the batch.
template <HasMembers Batch>
  requires concepts::Batch<Batch>
Batch slice(const Batch& batch, std::int64_t begin, std::int64_t end) {
  const std::int64_t rows = batch.size();
  check<IndexError>(0 <= begin && begin <= end && end <= rows, "slice: rows ", begin, " to ", end, " of a batch of ", rows);
  return detail::map_tensors(batch, [&]<class Leaf>(std::string_view name, const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) {
      if (!leaf.defined()) return leaf;
      check<ShapeError>(leaf.dim() > 0 && leaf.size(0) == rows, "slice: '", name, "' has shape ", leaf.sizes(), ", but the batch has ",
                        rows, " rows");
      return leaf.narrow(0, begin, end - begin);                                   // [end - begin, ...]
    } else {
      check<ShapeError>(leaf.stride() == rows, "slice: '", name, "' has ", leaf.stride(), " rows, but the batch has ", rows);
      return leaf.slice(begin, end);
    }
  });
}

}  // namespace rookery
