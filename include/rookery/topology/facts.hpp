// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TopologyFacts: what planning needs to know of a machine, as plain values; no rank of it has to exist.
//
// The memory and bandwidths that nobody has measured are TorchRec's constants, so that predictions compare with its planner's.
// Answers to torchrec/distributed/planner/types.py (Topology) and constants.py; differs: bytes per second, and values that were
// measured may take the place of each.  Include cost: c10 device only.

#include <c10/core/DeviceType.h>

#include <cmath>
#include <cstdint>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

/// The ranks that a plan is for, and what each has. Memory is a rank's own share, in bytes; bandwidths are bytes per second.
struct TopologyFacts {
  static constexpr double gib = 1024. * 1024 * 1024;

  int world_size = 1;
  int local_world_size = 0;                                  // ranks on each node; 0: all on one
  c10::DeviceType device = c10::DeviceType::CPU;             // where tables are read; on a CPU in the host's memory
  std::int64_t device_memory = std::int64_t{32} << 30;       // of an accelerator
  std::int64_t host_memory = std::int64_t{128} << 30;
  double device_bandwidth = 897 * gib;
  double host_bandwidth = 51 * gib;
  double host_device_bandwidth = 32 * gib;
  double intra_node_bandwidth = 600 * gib;
  double inter_node_bandwidth = 12.5 * gib;

  bool on_cpu() const { return device == c10::DeviceType::CPU; }
  /// Ranks on each node.
  int ranks_per_node() const { return local_world_size > 0 ? local_world_size : world_size; }
  int nodes() const { return world_size / ranks_per_node(); }
  /// Bytes that a rank has for tables.
  std::int64_t memory() const { return on_cpu() ? host_memory : device_memory; }

  /// Errors: ConfigError for facts of no machine: nodes of unlike size, negative memory, a bandwidth that is not a positive number.
  void validate() const {
    check<ConfigError>(world_size > 0 && local_world_size >= 0 && world_size % ranks_per_node() == 0, "TopologyFacts: ", world_size,
                       " ranks on nodes of ", ranks_per_node(), "; every node must have as many");
    check<ConfigError>(device_memory >= 0 && host_memory >= 0, "TopologyFacts: ", device_memory, " bytes of device memory and ",
                       host_memory, " of host memory");
    for (const double bandwidth : {device_bandwidth, host_bandwidth, host_device_bandwidth, intra_node_bandwidth, inter_node_bandwidth})
      check<ConfigError>(bandwidth > 0 && std::isfinite(bandwidth), "TopologyFacts: a bandwidth of ", bandwidth, " bytes per second");
  }
};

/// The ranks of a topology, with constants for what it does not know of itself.
template <concepts::Topology Topology> TopologyFacts facts_of(const Topology& topology) {
  TopologyFacts facts;
  facts.world_size = topology.world_size();
  facts.local_world_size = concepts::local_world_size(topology);
  facts.device = topology.device().type();
  return facts;
}

}  // namespace rookery
