// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// broadcast: gives every rank the tensor of one.
//
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>

namespace rookery {

/// The tensor of rank `root`. The others pass one of the same shape and dtype.
///
/// Errors:  CommunicationError as in all_to_all_v.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> auto broadcast(Topology& topology, at::Tensor tensor, int root = 0) {
  if constexpr (!Topology::is_distributed) {
    (void)topology, (void)root;
    return Ready<at::Tensor>{std::move(tensor)};
  } else if constexpr (concepts::Communicator<Topology>) {
    return topology.broadcast(std::move(tensor), root);
  } else {
    static_assert(detail::has_all_verbs<Topology>,
                  "rookery::broadcast: a distributed topology needs all verbs; see docs/concepts.md#communicator");
  }
}

}  // namespace rookery
