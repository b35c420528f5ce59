// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// all_gather_v: gives every rank the tensors of all ranks.
//
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>

namespace rookery {

/// The tensors of all ranks, in rank order; sizes of dimension 0 may differ.
///
/// Shapes:  tensor [n_r, ...] -> W tensors.
/// Errors:  CommunicationError as in all_to_all_v.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> auto all_gather_v(Topology& topology, at::Tensor tensor) {
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    return Ready<std::vector<at::Tensor>>{{std::move(tensor)}};
  } else if constexpr (concepts::Communicator<Topology>) {
    return topology.all_gather_v(std::move(tensor));
  } else {
    static_assert(detail::has_all_verbs<Topology>,
                  "rookery::all_gather_v: a distributed topology needs all verbs; see docs/concepts.md#communicator");
  }
}

}  // namespace rookery
