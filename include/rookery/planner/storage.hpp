// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What a shard of a table takes of its rank's memory, and what is kept free for everything else.
//
// Weights and state are counted exactly, from the rule; what lookups and their exchange hold is TorchRec's estimate of it.
// Answers to torchrec/distributed/planner/shard_estimators.py and storage_reservations.py.  Include cost: tensor.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include <rookery/planner/cost.hpp>

namespace rookery {

/// How many batches are under way at once.
enum class TrainPipeline { none, sparse_dist, prefetch_sparse_dist };

/// The memory of lookups as the way of training decides it.
struct PipelineStorage {
  TrainPipeline pipeline = TrainPipeline::none;
  bool lookups_at_peak = false;                              // outputs count with a pipeline only if lookups run when memory is fullest
  int prefetch_passes = 1;                                   // that rows of a cached table are fetched in
};

/// Bytes of what goes into a shard and comes out of it; `prefetched` of the ids are those of a cached table.
inline std::int64_t pipeline_bytes(std::int64_t input, std::int64_t output, std::int64_t prefetched, const PipelineStorage& how) {
  const auto at_peak = how.lookups_at_peak ? output : 0;
  switch (how.pipeline) {
    case TrainPipeline::none: return input + output;
    case TrainPipeline::sparse_dist: return 2 * input + at_peak;
    case TrainPipeline::prefetch_sparse_dist:
      return 3 * input + static_cast<std::int64_t>((1 + 6. / std::max(1, how.prefetch_passes)) * static_cast<double>(prefetched)) + at_peak;
  }
  return input + output;
}

/// Bytes of the ids that a shard is asked for, and of what it gives back.
inline std::int64_t input_bytes(const TableDescription& table, const TableLoad& load, const TopologyFacts& facts, const ShardCut& cut) {
  const double ids = detail::ids_read(load, facts, cut);
  return static_cast<std::int64_t>(std::ceil(ids * detail::bytes_per_id)) * (table.is_weighted ? 2 : 1);
}
inline std::int64_t output_bytes(const TableDescription& table, const TableLoad& load, const TopologyFacts& facts, const ShardCut& cut) {
  const auto number = static_cast<double>(c10::elementSize(compute_dtype(table.data_type)));
  return static_cast<std::int64_t>(std::ceil(detail::output_elements(table, load.filled_rows, facts, cut) * number));
}

/// Bytes of a shard beside its weights and state.
inline std::int64_t lookup_bytes(const TableDescription& table, const TableLoad& load, const TopologyFacts& facts, const ShardCut& cut,
                                 const PipelineStorage& how) {
  return pipeline_bytes(input_bytes(table, load, facts, cut), output_bytes(table, load, facts, cut), 0, how);
}

/// Memory of each rank that tables do not get.
struct StorageReservation {
  double fraction = .15;                                     // of all memory
  std::int64_t dense_bytes = 0;                              // of the dense parameters
  double dense_copies = 6;                                   // parameters, gradients, state, what exchange and activations hold
  double batch_copies = 20;                                  // of a batch's ids: two in flight, ten internal copies each
  std::int64_t bytes = 0;                                    // and so many more

  /// A share of the memory and nothing else.
  static StorageReservation fixed_percentage(double fraction) {
    StorageReservation reservation;
    reservation.fraction = fraction;
    reservation.batch_copies = 0;
    return reservation;
  }
};

/// Errors: PlanError for a share that is none.
inline std::int64_t reserved_bytes(const StorageReservation& reservation, const TopologyFacts& facts, std::span<const TableLoad> loads) {
  check<PlanError>(reservation.fraction >= 0 && reservation.fraction <= 1, "StorageReservation: ", reservation.fraction,
                   " of the memory; a share is between 0 and 1");
  double ids = 0;
  for (const auto& load : loads) ids += load.ids;
  return static_cast<std::int64_t>(reservation.fraction * static_cast<double>(facts.memory()) +
                                   reservation.dense_copies * static_cast<double>(reservation.dense_bytes) +
                                   reservation.batch_copies * std::ceil(ids * detail::bytes_per_id)) +
         reservation.bytes;
}

}  // namespace rookery
