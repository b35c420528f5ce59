// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Replicas: the gradients of tables that have a copy on every rank, summed over ranks, so that all copies take the same update.
//
// All such tables of one dtype go in one all-reduce, dense, with a mark for each row that a rank has seen: rows that no rank has
// seen stay as they are, bit by bit. Answers to torchrec's data_parallel sharding, whose gradient is dense and touches every row.
// Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/sharding/gradient_exchange.hpp>
#include <rookery/sharding/routing.hpp>

namespace rookery::detail {

/// Numbers that a replicated shard takes in a message: a gradient row and a mark for each of its rows.
inline std::int64_t replica_numbers(const ShardBox& box) { return box.rows() * (box.columns() + 1); }

/// Writes a rank's sums into its part of the message [E, D + 1].
inline void spread_rows(const RowGradients& gradients, std::int64_t columns, at::Tensor message) {
  for_floating(message.scalar_type(), [&](auto zero) {
    using Number = decltype(zero);
    const auto* from = gradients.sums.const_data_ptr<Number>();
    auto* to = message.mutable_data_ptr<Number>();
    for (std::size_t u = 0; u < gradients.rows.size(); ++u, from += columns) {
      auto* row = to + gradients.rows[u] * (columns + 1);
      std::copy_n(from, columns, row);
      row[columns] = 1;
    }
  });
}

/// The rows that any rank marked, with their sums.
inline RowGradients marked_rows(const at::Tensor& message, const ShardBox& box) {
  RowGradients found;
  for_floating(message.scalar_type(), [&](auto zero) {
    using Number = decltype(zero);
    const auto columns = box.columns();
    const auto* row = message.const_data_ptr<Number>();
    for (std::int64_t r = 0; r < box.rows(); ++r)
      if (row[r * (columns + 1) + columns] > 0) found.rows.push_back(r);
    found.sums = at::empty({static_cast<std::int64_t>(found.rows.size()), columns}, message.scalar_type());   // [U, D]
    auto* to = found.sums.mutable_data_ptr<Number>();
    for (const auto r : found.rows) to = std::copy_n(row + r * (columns + 1), columns, to);
  });
  return found;
}

/// Sums the gradients of replicated tables over ranks. One all-reduce for each dtype that such tables have; none without them.
/// Ranks: all, in the same order.
template <class Topology> void sum_replicas(Topology& topology, const Routing& routing, std::span<ShardGradients> shards) {
  const auto box_of = [&](const ShardGradients& shard) { return routing.tables[shard.table].shards[shard.shard].box; };
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    std::int64_t numbers = 0;
    std::vector<std::pair<ShardGradients*, std::int64_t>> of_dtype;                          // and where each begins
    for (auto& shard : shards) {
      const auto& table = routing.tables[shard.table];
      if (!table.is_replicated || compute_dtype(table.description.data_type) != dtype) continue;
      of_dtype.emplace_back(&shard, numbers);
      numbers += replica_numbers(box_of(shard));
    }
    if (of_dtype.empty()) continue;
    auto message = at::zeros({numbers}, dtype);                                              // [sum(E * (D + 1))]
    for (const auto& [shard, begin] : of_dtype)
      spread_rows(shard->gradients, box_of(*shard).columns(), message.narrow(0, begin, replica_numbers(box_of(*shard))));
    const auto summed = all_reduce(topology, std::move(message)).wait();
    for (const auto& [shard, begin] : of_dtype)
      shard->gradients = marked_rows(summed.narrow(0, begin, replica_numbers(box_of(*shard))), box_of(*shard));
  }
}

}  // namespace rookery::detail
