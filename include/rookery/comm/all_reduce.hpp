// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// all_reduce: combines a tensor over ranks.
//
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>

namespace rookery {

/// The sum, maximum or minimum of `tensor` over ranks, bit-equal on all of them.
///
/// Shapes:  any, the same on all ranks; the result may be the same tensor on one rank.
/// Errors:  CommunicationError as in all_to_all_v.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> auto all_reduce(Topology& topology, at::Tensor tensor, ReduceOp op = ReduceOp::sum) {
  if constexpr (!Topology::is_distributed) {
    (void)topology, (void)op;
    return Ready<at::Tensor>{std::move(tensor)};
  } else if constexpr (concepts::Communicator<Topology>) {
    return topology.all_reduce(std::move(tensor), op);
  } else {
    static_assert(detail::has_all_verbs<Topology>,
                  "rookery::all_reduce: a distributed topology needs all verbs; see docs/concepts.md#communicator");
  }
}

}  // namespace rookery
