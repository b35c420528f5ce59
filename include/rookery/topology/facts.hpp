// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TopologyFacts: what planning needs to know of a machine, as plain values; no rank of it has to exist.
//
// The memory and bandwidths that nobody has measured are TorchRec's constants, so that predictions compare with its planner's. Of a GPU
// that is there facts_of knows more, and the plan's report says what it does not.
// Answers to torchrec/distributed/planner/types.py (Topology) and constants.py; differs: bytes per second, and values that were
// measured may take the place of each.  Include cost: c10 device only.

#include <c10/core/DeviceType.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/gpu_facts.hpp>

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
  std::string constants{};                                   // which of a GPU that is there are not its own, in words; see learn

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

/// Puts what a GPU says of itself in the place of constants, and names those that stay. Ranks of a node exchange over NVLink, or without
/// it as fast as the host and the GPU do, unless exchange is measured.
inline void learn(TopologyFacts& facts, const GpuFacts& gpu, bool exchange_is_measured = false) {
  facts.constants.clear();
  const auto constant = [&](std::string_view name) { facts.constants += concat(facts.constants.empty() ? "" : ", ", name); };
  if (gpu.memory >= 0) facts.device_memory = gpu.memory;
  else constant("memory");
  if (gpu.bandwidth > 0) facts.device_bandwidth = gpu.bandwidth;
  else constant("its bandwidth");
  if (exchange_is_measured) return;
  if (gpu.nvlink_bandwidth > 0) facts.intra_node_bandwidth = gpu.nvlink_bandwidth;
  else if (gpu.nvlinks == 0) facts.intra_node_bandwidth = facts.host_device_bandwidth;
  else if (facts.world_size > 1) constant("exchange in a node");
  if (facts.nodes() > 1) constant("exchange between nodes");
}

/// The ranks of a topology, what its GPU says of itself, and constants for the rest.
template <concepts::Topology Topology> TopologyFacts facts_of(const Topology& topology) {
  TopologyFacts facts;
  facts.world_size = topology.world_size();
  facts.local_world_size = concepts::local_world_size(topology);
  facts.device = topology.device().type();
  if (topology.device().is_cuda()) learn(facts, gpu_facts(std::max<int>(0, topology.device().index())));
  return facts;
}

}  // namespace rookery
