// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What every batch can do once it lists its members: move to a device, and be sliced by rows.
//
// Source: torchrec's Pipelineable, derived instead of written by hand.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <type_traits>

#include <rookery/core/members.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

namespace detail {

template <class Batch, class Fn> Batch map_tensors(const Batch& batch, Fn&& fn) {
  Batch mapped = batch;
  visit_leaves(mapped, "", [&](std::string_view, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, at::Tensor> || std::is_same_v<Leaf, KeyedJaggedTensor>) leaf = fn(leaf);
  });
  return mapped;
}

}  // namespace detail

/// A copy on `device`, asynchronous where the device allows; lengths of jagged members stay on the host.
template <HasMembers Batch> Batch to(const Batch& batch, at::Device device) {
  return detail::map_tensors(batch, [&]<class Leaf>(const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) return leaf.defined() ? leaf.to(device, /*non_blocking=*/true) : leaf;
    else return leaf.to(device);
  });
}

/// Rows [begin, end) of every member.
template <HasMembers Batch> Batch slice(const Batch& batch, std::int64_t begin, std::int64_t end) {
  return detail::map_tensors(batch, [&]<class Leaf>(const Leaf& leaf) -> Leaf {
    if constexpr (std::is_same_v<Leaf, at::Tensor>) return leaf.defined() ? leaf.narrow(0, begin, end - begin) : leaf;
    else return leaf.slice(begin, end);
  });
}

}  // namespace rookery
