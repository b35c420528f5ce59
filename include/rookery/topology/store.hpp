// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The store in which processes find one another: c10d's, held by rank 0 or by torchrun's agent.
//
// Answers to torch.distributed's env:// rendezvous.  Include cost: c10d's store.

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdint>
#include <string>

#include <rookery/core/error.hpp>
#include <rookery/topology/liveness.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/sockets.hpp>

namespace rookery::detail {

using StorePointer = c10::intrusive_ptr<c10d::Store>;

/// Waits for a listener first: where nobody answers c10d writes pages about each attempt, and takes its time twice.
/// Errors: c10d's, when rank 0's port is taken; CommunicationError when nobody listens at it before the deadline.
inline StorePointer join_store(const ProcessEnvironment& environment) {
  c10d::TCPStoreOptions at;
  at.port = static_cast<std::uint16_t>(environment.master_port);
  at.isServer = environment.rank == 0 && !environment.agent_store;
  at.waitWorkers = false;
  at.timeout = environment.timeout;
  at.multiTenant = true;
  if (!at.isServer) wait_for_listener(environment.master_address, environment.master_port, environment.timeout);
  const auto store = c10::make_intrusive<c10d::TCPStore>(environment.master_address, at);
  return c10::make_intrusive<c10d::PrefixStore>(concat("rookery/", environment.attempt), store);
}

/// Rank 0 says in the store where it listens.
inline Liveness::Meeting meeting_in(const StorePointer& store, const ProcessEnvironment& environment) {
  return {.host = environment.master_address,
          .publish = [store](int port) { store->set("liveness", std::to_string(port)); },
          .look_up = [store] { return std::stoi(store->get_to_str("liveness")); }};
}

}  // namespace rookery::detail
