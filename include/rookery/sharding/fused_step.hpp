// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The last phase of a step on the host: the updates of local shards by their tasks. The second phase and the last are one for shards
// whose rows have all columns and no copies: kernels/cpu/fused_update.hpp.
//
// The norm of a step's gradient is known once the rows are updated, so clipping goes the long way; and so does a step with gradients
// that are not finite, or so large that their sums may not be: they are looked at before any row is changed.
// Answers to FBGEMM's fused backward.  Include cost: tensor.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <rookery/core/parallel.hpp>
#include <rookery/kernels/cpu/fused_update.hpp>
#include <rookery/kernels/cpu/largest.hpp>
#include <rookery/sharding/gradient_exchange.hpp>
#include <rookery/sharding/routing.hpp>

namespace rookery::detail {

/// The update of one local shard; `table` of the routing.
struct FusedShard {
  std::size_t table = 0, shard = 0;
  kernels::FusedUpdate update;
};

/// A local shard in a step; `table` of the routing.
struct ShardStep {
  std::size_t table = 0, shard = 0;
  StepContext context;
};

/// The rules' sums over the columns of local shards, for the rows that have gradients; tasks[i] is of shards[i].
inline std::vector<std::vector<double>> row_sums(std::span<const ShardGradients> shards, std::span<const kernels::RowTask> tasks) {
  std::vector<std::vector<double>> sums(shards.size());
  for (std::size_t i = 0; i < shards.size(); ++i) {
    if (!tasks[i].sum) continue;
    const auto& gradients = shards[i].gradients;
    sums[i].resize(gradients.rows.size() * static_cast<std::size_t>(tasks[i].row_sums));
    kernels::sum_rows(tasks[i], gradients.rows, gradients.sums.const_data_ptr(), sums[i].data());
  }
  return sums;
}

/// One update of each row that has a gradient. `sums` are those of whole rows.
inline void update_rows(std::span<const ShardGradients> shards, std::span<const kernels::RowTask> tasks,
                        std::span<const std::vector<double>> sums) {
  for (std::size_t i = 0; i < shards.size(); ++i)
    if (tasks[i].update)
      kernels::update_rows(tasks[i], shards[i].gradients.rows, shards[i].gradients.sums.const_data_ptr(), sums[i].data());
}

/// Updates all of them in one parallel region, by their tasks, once sums are scaled.
inline void update_fused(std::span<FusedShard> shards, std::span<kernels::RowTask> tasks, double scale) {
  std::vector<kernels::FusedUpdate*> updates;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].update.task = std::move(tasks[i]);
    shards[i].update.scale = scale;
    updates.push_back(&shards[i].update);
  }
  kernels::update(updates);
}

/// What the shards of this rank that can be fused are to do, but for the task of each.
inline std::vector<FusedShard> fused_shards(const Routing& routing, std::size_t self, std::span<const Capture> captures,
                                            std::span<const ReceivedGradients> received) {
  std::vector<FusedShard> shards;
  for (const auto& asked : routing.asked) {
    const auto& table = routing.tables[asked.table];
    if (!can_fuse(routing, table)) continue;
    auto& one = shards.emplace_back(FusedShard{asked.table, asked.shard, {}}).update;
    one.rows = table.shards[asked.shard].box.rows();
    one.task.dim = table.shards[asked.shard].box.columns();
    auto found = sources_of(routing, self, asked, captures, received);
    one.sources = std::move(found.sources);
    one.dtype = found.dtype;
  }
  return shards;
}

/// The squared norm of all scaled sums [1], once rows are updated.
inline at::Tensor squares_of(std::span<const FusedShard> shards) {
  double squares = 0;
  for (const auto& shard : shards) squares += shard.update.squared_norm();
  return host_tensor(std::vector<double>{squares});
}

/// Whether no sum of a shard's gradients can be anything but finite.
inline bool has_finite_sums(const kernels::FusedUpdate& update) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  double largest = 0, factor = 0;
  for (const auto& source : update.sources) {
    largest = std::max(largest, kernels::largest_magnitude(update.dtype, source.first, source.stride, source.bags, update.task.dim));
    double weight = 1, divided = 1;
    for (std::int64_t i = 0; source.weights && i < source.count(); ++i)
      if (!(std::abs(source.weights[i]) <= weight)) weight = std::isnan(source.weights[i]) ? infinite : std::abs(source.weights[i]);
    for (std::int64_t b = 0; source.divisors && b < source.bags; ++b)
      if (source.divisors[b] != 0 && !(std::abs(1 / source.divisors[b]) <= divided))
        divided = std::isnan(source.divisors[b]) ? infinite : std::abs(1 / source.divisors[b]);
    factor = std::max(factor, weight * divided);
  }
  const double limit = update.dtype == at::kDouble ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  return largest * factor * static_cast<double>(update.count()) < limit / 2;
}

/// The tables of this rank of which that is not so for some shard.
inline std::vector<std::size_t> tables_beyond(std::span<const FusedShard> shards) {
  std::vector<char> finite(shards.size());
  std::int64_t numbers = 0;
  for (const auto& shard : shards)
    for (const auto& source : shard.update.sources) numbers += source.bags * shard.update.task.dim;
  constexpr std::int64_t worth_a_region = 1 << 17;
  const auto count = static_cast<std::int64_t>(shards.size());
  parallel(count, numbers < worth_a_region ? count : 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) finite[i] = has_finite_sums(shards[i].update);
  });
  std::vector<std::size_t> tables;
  for (std::size_t i = 0; i < shards.size(); ++i)
    if (!finite[i]) tables.push_back(shards[i].table);
  return tables;
}

}  // namespace rookery::detail
