// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Placement: where the shards of every table are, and the storage of those that are here; and the nodes that they are placed on.
// Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_gather_v.hpp>
#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>
#include <rookery/embedding/config.hpp>
#include <rookery/embedding/table_collection.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/sparse/validate.hpp>

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

/// Errors: ConfigError for a full name given twice: state and initial values go by names.
inline void check_names(const std::vector<std::string>& names) {
  if (const auto* name = first_repeated(names))
    fail<ConfigError>("two parameters, buffers or tables of the model are called '", *name, "'; give each a name of its own");
}

/// Errors: ConfigError for a feature that a part of the model is for and no table has.
[[gnu::cold]] inline void check_features(const std::vector<std::string>& expected, const std::vector<std::string>& features) {
  for (const auto& name : expected)
    check<ConfigError>(std::find(features.begin(), features.end(), name) != features.end(), "a part of the model is for feature '", name,
                       "', which none of its tables has; there are ", features);
}

/// A line for each table.
inline void declare_tables(const std::vector<PlacedTable>& tables, std::string& lines) {
  for (const auto& placed : tables) {
    const auto& table = placed.description;
    lines += concat("\n", table.name, ": [", table.num_embeddings, ", ", table.embedding_dim, "] ", c10::toString(table.data_type), " ",
                    table.rule, "; ", table.settings);
  }
}

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
