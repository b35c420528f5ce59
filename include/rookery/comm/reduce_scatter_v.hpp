// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// reduce_scatter_v: sums over ranks and leaves each rank its rows of the sum.
//
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>

namespace rookery {

/// Rows of the sum of `tensor` over ranks: rank r gets counts[r] of them, in rank order.
///
/// Shapes:  tensor [sum(counts), ...], the same on all ranks -> [counts[rank], ...].
/// Errors:  CommunicationError as in all_to_all_v.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> auto reduce_scatter_v(Topology& topology, at::Tensor tensor, const Counts& counts) {
  if constexpr (!Topology::is_distributed) {
    (void)topology, (void)counts;
    return Ready<at::Tensor>{std::move(tensor)};
  } else if constexpr (concepts::Communicator<Topology>) {
    return topology.reduce_scatter_v(std::move(tensor), counts);
  } else {
    static_assert(detail::has_all_verbs<Topology>,
                  "rookery::reduce_scatter_v: a distributed topology needs all verbs; see docs/concepts.md#communicator");
  }
}

}  // namespace rookery
