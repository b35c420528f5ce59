// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Placement: where the shards of every table are, and the storage of those that are here.  Include cost: tensor.

#include <cstddef>
#include <vector>

#include <rookery/embedding/config.hpp>
#include <rookery/embedding/table_collection.hpp>

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

}  // namespace rookery
