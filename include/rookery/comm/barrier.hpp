// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// barrier: no rank goes on before all have come.
//
// Include cost: tensor.

#include <rookery/concepts/communicator.hpp>

namespace rookery {

/// Waits for all ranks.
///
/// Errors:  CommunicationError as in all_to_all_v.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> void barrier(Topology& topology) {
  if constexpr (Topology::is_distributed) topology.barrier().wait();
}

}  // namespace rookery
