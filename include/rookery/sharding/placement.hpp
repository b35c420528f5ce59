// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Placement: where the shards of every table are, and the storage of those that are here; and the nodes that they are placed on.
// Include cost: tensor.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_gather_v.hpp>
#include <rookery/concepts/topology.hpp>
#include <rookery/embedding/config.hpp>
#include <rookery/embedding/table_collection.hpp>
#include <rookery/planner/place.hpp>

namespace rookery {

/// A shard where it lives; `local` points to its storage on the rank that holds it, and is null on the others.
struct PlacedShard {
  ShardBox box;
  int rank = 0;
  const LocalShard* local = nullptr;
};

/// A table with all its shards.
struct PlacedTable {
  TableDescription description;
  std::size_t collection = 0;            // in the order of the model's members
  std::vector<PlacedShard> shards{};
  bool is_replicated = false;            // every rank holds a copy, shard r on rank r
  bool is_hierarchical = false;          // sums of its row shards are added up inside a node before they leave it

  /// Whether a shard stands for its part of the table: of copies only the first does.
  bool is_primary(const PlacedShard& shard) const { return !is_replicated || shard.rank == 0; }
};

namespace detail {

/// Ranks on each node, or nodes_differ where ranks say otherwise. Ranks: all.
template <class Topology> int ranks_on_each_node(Topology& topology) {
  const int here = concepts::local_world_size(topology);
  if constexpr (Topology::is_distributed) {
    const bool same = all_same(all_gather_v(topology, host_tensor(std::vector<std::int64_t>{here})).wait());
    if (!same || topology.world_size() % here != 0) return nodes_differ;
  }
  return here;
}

}  // namespace detail
}  // namespace rookery
