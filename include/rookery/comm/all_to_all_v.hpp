// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// all_to_all_v: each rank sends rows to every rank, as many as it likes.
//
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>

namespace rookery {

/// Sends rows [send_counts] of `send` to the ranks, in rank order; gives the rows received, in rank order.
///
/// Shapes:  send [sum(send_counts), ...] -> [sum(recv_counts), ...]; counts may be 0.
/// Errors:  CommunicationError when ranks disagree about who sends how much, at the deadline, or when a rank has failed.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology>
auto all_to_all_v(Topology& topology, at::Tensor send, const Counts& send_counts, const Counts& recv_counts) {
  if constexpr (!Topology::is_distributed) {
    (void)topology, (void)send_counts, (void)recv_counts;
    return Ready<at::Tensor>{std::move(send)};
  } else if constexpr (concepts::Communicator<Topology>) {
    return topology.all_to_all_v(std::move(send), send_counts, recv_counts);
  } else {
    static_assert(detail::has_all_verbs<Topology>,
                  "rookery::all_to_all_v: a distributed topology needs all verbs; see docs/concepts.md#communicator");
  }
}

}  // namespace rookery
