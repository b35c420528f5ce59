// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What a shard of a table costs a step, in seconds, by counting bytes and dividing by bandwidths.
//
// The formulas and their measured factors are those of TorchRec's planner, so that predictions compare; they see how a shard was cut,
// not which kind cut it. Differs: a frozen table has no backward pass, one rank exchanges nothing, and rows that fewer ranks hold
// than asked are read by those. An all-reduce of a replicated table is priced whole, though replicas here exchange touched rows only.
// Answers to torchrec/distributed/planner/shard_estimators.py and constants.py.  Include cost: tensor.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/topology/facts.hpp>

namespace rookery {

/// What one rank's batch asks of a table.
struct TableLoad {
  double ids = 0;                                            // that are looked up
  double rows = 0;                                           // of output: bags, or ids of a sequence
  double filled_rows = 0;                                    // of those, the ones that hold an id
};

/// Errors: PlanError for lists in `asked` that have neither one number nor one for each feature, for numbers that are negative or not
///         finite, and for batches without a row.
inline TableLoad load_of(const TableDescription& table, const ParameterConstraints& asked, std::int64_t batch_size) {
  const auto features = static_cast<std::size_t>(table.features);
  const auto at = [&](std::string_view what, const auto& list, std::size_t feature, auto otherwise, double least) {
    check<PlanError>(list.size() < 2 || list.size() == features, "constraints: table '", table.name, "' has ", features,
                     features == 1 ? " feature and " : " features and ", list.size(), " ", what, "; give one for all or one for each");
    const auto value = static_cast<double>(list.empty() ? otherwise : list.size() == 1 ? list.front() : list[feature]);
    check<PlanError>(value >= least && std::isfinite(value), "constraints: table '", table.name, "' has ", value, " in its ", what,
                     "; that must be a number from ", least, " on");
    return value;
  };
  TableLoad load;
  for (std::size_t f = 0; f < features; ++f) {
    const double pooling = at("pooling_factors", asked.pooling_factors, f, 1., 0);
    const double bags = at("num_poolings", asked.num_poolings, f, 1., 0) * at("batch_sizes", asked.batch_sizes, f, batch_size, 1);
    load.ids += pooling * bags;
    load.rows += bags;
    load.filled_rows += std::min(1., pooling) * bags;
  }
  if (table.pooling == PoolingType::none) load.rows = load.filled_rows = load.ids;
  return load;
}

/// How a shard was cut out of its table.
struct ShardCut {
  enum class Rows {
    whole,                                                   // all rows on one rank
    in_node,                                                 // split over ranks of one node
    across,                                                  // split over ranks of several nodes
    replicated,                                              // a copy of the table on every rank
  };
  std::int64_t columns = 0;
  Rows rows = Rows::whole;
  std::int64_t parts = 1;                                    // that the rows of its columns are split into
};

/// Where and how the rows of a shard are read.
enum class LookupKernel { fused, dense, unified_memory, cached_unified_memory };

/// Bytes per second that a lookup reads. `cached` is the share of rows in the cache; with `prefetch` they are there before they are read.
inline double kernel_bandwidth(const TopologyFacts& facts, LookupKernel kernel, double cached = .2, bool prefetch = false) {
  const double memory = facts.on_cpu() ? facts.host_bandwidth : facts.device_bandwidth;
  switch (kernel) {
    case LookupKernel::fused: return memory;
    case LookupKernel::dense: return .5 * memory;
    case LookupKernel::unified_memory: return facts.host_device_bandwidth / 10;
    case LookupKernel::cached_unified_memory:
      return prefetch ? memory : (cached * memory + (1 - cached) * facts.host_device_bandwidth) / 10;
  }
  return memory;
}

/// Seconds of a step that go into one shard, or into the shards of a rank.
struct StepCost {
  double forward_compute = 0, forward_comms = 0, backward_compute = 0, backward_comms = 0;

  double total() const { return forward_compute + forward_comms + backward_compute + backward_comms; }
  StepCost& operator+=(const StepCost& other) {
    forward_compute += other.forward_compute;
    forward_comms += other.forward_comms;
    backward_compute += other.backward_compute;
    backward_comms += other.backward_comms;
    return *this;
  }
};

namespace detail {

inline constexpr double bytes_per_id = 8;

/// Elements that a shard brings back in a step, of all ranks' batches.
inline double output_elements(const TableDescription& table, double rows, const TopologyFacts& facts, const ShardCut& cut) {
  const double ranks = cut.rows == ShardCut::Rows::replicated ? 1 : facts.world_size;
  const auto shares = table.pooling == PoolingType::none ? static_cast<double>(cut.parts) : 1;   // partial sums go to every bag
  return rows * ranks / shares * static_cast<double>(cut.columns);
}
/// Ids that a shard looks up in a step.
inline double ids_read(const TableLoad& load, const TopologyFacts& facts, const ShardCut& cut) {
  return cut.rows == ShardCut::Rows::replicated ? load.ids : load.ids * facts.world_size / static_cast<double>(cut.parts);
}

/// Narrow rows do not fill the lanes of the kernel that reads them.
inline double narrow_row_penalty(std::int64_t columns) { return columns >= 128 ? 1 : columns >= 64 ? 1.15 : 1.75; }

/// Seconds to all-reduce and apply the gradient of a table that every rank has.
inline double replica_seconds(double bytes, const TopologyFacts& facts, double bandwidth) {
  const double nodes = std::min(2, facts.nodes()), network = facts.inter_node_bandwidth * facts.ranks_per_node();
  return bytes * (2 * nodes - 1) / nodes / network * (facts.nodes() > 2 ? 2 : 1) + bytes * 9.22 / bandwidth;
}

}  // namespace detail

/// The cost of one shard, read at `bandwidth` bytes per second.
inline StepCost shard_cost(const TableDescription& table, const TableLoad& load, const TopologyFacts& facts, const ShardCut& cut,
                           double bandwidth) {
  using Rows = ShardCut::Rows;
  const auto weight = static_cast<double>(c10::elementSize(table.data_type));
  const auto number = static_cast<double>(c10::elementSize(compute_dtype(table.data_type)));
  const auto columns = static_cast<double>(cut.columns);
  const double ids = detail::ids_read(load, facts, cut);
  const double read = std::ceil(ids * detail::bytes_per_id) * (table.is_weighted ? 2 : 1);
  const double rows = ids * (cut.rows == Rows::whole ? std::max(columns, 32.) : columns) * weight;
  const double output = detail::output_elements(table, load.rows, facts, cut) * number;
  StepCost cost;
  cost.forward_compute =
      (read + rows + output) * (cut.rows == Rows::whole ? detail::narrow_row_penalty(cut.columns) : 1) / bandwidth;
  if (!table.frozen) cost.backward_compute = cost.forward_compute * (table.is_weighted ? 2 + 1.1 : 2);
  if (facts.world_size == 1) return cost;
  const double network = facts.nodes() == 1 ? facts.intra_node_bandwidth : facts.inter_node_bandwidth;
  switch (cut.rows) {
    case Rows::replicated:
      cost.backward_comms =
          detail::replica_seconds(static_cast<double>(table.num_embeddings) * columns * number, facts, bandwidth);
      break;
    case Rows::whole:
      cost.forward_comms = cost.backward_comms = output / network;
      break;
    case Rows::across:
      cost.forward_comms = output / network;
      cost.backward_comms = cost.forward_comms + output * 2.455 / bandwidth;
      break;
    case Rows::in_node:
      cost.forward_comms = output / facts.intra_node_bandwidth;
      if (facts.nodes() > 1) cost.forward_comms += load.rows * facts.nodes() * columns * number / facts.inter_node_bandwidth;
      cost.backward_comms = cost.forward_comms + output * 2.455 / bandwidth;
      break;
  }
  if (table.frozen) cost.backward_comms = 0;
  return cost;
}
/// The same where lookups of the library read it: rows in the memory of the rank's device.
inline StepCost shard_cost(const TableDescription& table, const TableLoad& load, const TopologyFacts& facts, const ShardCut& cut) {
  const auto kernel = cut.rows == ShardCut::Rows::replicated ? LookupKernel::dense : LookupKernel::fused;
  return shard_cost(table, load, facts, cut, kernel_bandwidth(facts, kernel));
}

}  // namespace rookery
