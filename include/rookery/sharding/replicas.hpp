// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Replicas: the gradients of tables that have a copy on every rank, summed over ranks, so that all copies take the same update.
//
// Every rank gathers the rows that any has seen, in rank order, so that a step costs what its batch does; where ranks have seen most rows
// it is fewer bytes to add up whole tables in one all-reduce, with a mark for each row that a rank has seen. Rows that no rank has seen
// stay as they are, bit by bit.
// Answers to torchrec's data_parallel sharding, whose gradient is dense and touches every row.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sharding/capture.hpp>
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
    found.sums = ops::empty({static_cast<std::int64_t>(found.rows.size()), columns}, message.scalar_type());  // [U, D]
    auto* to = found.sums.mutable_data_ptr<Number>();
    for (const auto r : found.rows) to = std::copy_n(row + r * (columns + 1), columns, to);
  });
  return found;
}

/// The sums of some shards in words of 8 bytes: how many rows of each, all rows, all sums.
inline at::Tensor pack_rows(std::span<ShardGradients* const> shards) {
  std::vector<std::int64_t> words;
  for (const auto* shard : shards) words.push_back(static_cast<std::int64_t>(shard->gradients.rows.size()));
  for (const auto* shard : shards) words.insert(words.end(), shard->gradients.rows.begin(), shard->gradients.rows.end());
  for (const auto* shard : shards) {
    const auto begin = words.size(), bytes = shard->gradients.sums.nbytes();
    words.resize(begin + (bytes + 7) / 8);
    if (bytes > 0) std::memcpy(words.data() + begin, shard->gradients.sums.const_data_ptr(), bytes);
  }
  return host_tensor(words);                                                                 // [words]
}

/// Adds what ranks packed, in rank order, to the sums of the rows that any rank has seen.
inline void add_rows(const std::vector<at::Tensor>& packed, std::span<ShardGradients* const> shards) {
  struct FromRank {
    const std::int64_t *counts, *rows, *sums;
  };
  std::vector<FromRank> ranks;
  for (const auto& one : packed) {
    const auto* counts = one.const_data_ptr<std::int64_t>();
    auto& from = ranks.emplace_back(FromRank{counts, counts + shards.size(), counts + shards.size()});
    for (std::size_t s = 0; s < shards.size(); ++s) from.sums += counts[s];
  }
  for (std::size_t s = 0; s < shards.size(); ++s) {
    auto& own = shards[s]->gradients;
    RowGradients all;
    for (const auto& from : ranks) all.rows.insert(all.rows.end(), from.rows, from.rows + from.counts[s]);
    std::sort(all.rows.begin(), all.rows.end());
    all.rows.erase(std::unique(all.rows.begin(), all.rows.end()), all.rows.end());
    const auto columns = own.sums.size(1);
    all.sums = ops::zeros({static_cast<std::int64_t>(all.rows.size()), columns}, own.sums.scalar_type());    // [U, D]
    for_floating(own.sums.scalar_type(), [&](auto zero) {
      using Number = decltype(zero);
      for (auto& from : ranks) {
        const auto* sums = reinterpret_cast<const Number*>(from.sums);
        auto* to = all.sums.mutable_data_ptr<Number>();
        auto row = all.rows.begin();
        for (std::int64_t r = 0; r < from.counts[s]; ++r) {
          for (; *row != from.rows[r]; ++row) to += columns;
          for (std::int64_t d = 0; d < columns; ++d) to[d] += *sums++;
        }
        from.rows += from.counts[s];
        from.sums += (from.counts[s] * columns * static_cast<std::int64_t>(sizeof(Number)) + 7) / 8;
      }
    });
    own = std::move(all);
  }
}

/// Whether an all-reduce of whole tables moves fewer bytes than a gather of the rows that ranks have seen, and is what a step does.
///
/// Of N bytes an all-reduce moves 2 N (W - 1) / W at each rank; of P bytes that ranks have together, a gather moves P (W - 1) / W. So
/// tables go whole where 2 N <= P, with N = sum over tables of E (D + 1) b, for numbers of b bytes, and P = sum over ranks and tables of
/// U (8 + D b), for the U rows that a rank's ids name: P grows with the ranks, N does not. Ranks know P from the counts of ids.
inline bool are_replicas_whole(const Routing& routing, std::span<const Capture> captures) {
  std::int64_t whole = 0, rows = 0;
  for (const auto& asked : routing.asked) {
    const auto& table = routing.tables[asked.table];
    const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(table.description.data_type)));
    if (table.is_replicated && !table.description.frozen) whole += replica_numbers(table.shards[asked.shard].box) * number;
  }
  for (const auto& capture : captures) rows += capture.replica_bytes;
  return 2 * whole <= rows;
}

/// Sums the gradients of replicated tables over ranks. One collective for each dtype that such tables have; none without them.
/// Cost:  an all-reduce of all rows, or an all-gather of those that ranks have seen; see are_replicas_whole.
/// Ranks: all, in the same order.
template <class Topology>
void sum_replicas(Topology& topology, const Routing& routing, std::span<const Capture> captures, std::span<ShardGradients> shards) {
  const auto box_of = [&](const ShardGradients& shard) { return routing.tables[shard.table].shards[shard.shard].box; };
  const bool whole = are_replicas_whole(routing, captures);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    std::int64_t numbers = 0;
    std::vector<ShardGradients*> of_dtype;
    for (auto& shard : shards) {
      const auto& table = routing.tables[shard.table];
      if (!table.is_replicated || compute_dtype(table.description.data_type) != dtype) continue;
      of_dtype.push_back(&shard);
      numbers += replica_numbers(box_of(shard));
    }
    if (of_dtype.empty()) continue;
    if (!whole) {
      add_rows(all_gather_v(topology, pack_rows(of_dtype)).wait(), of_dtype);
      continue;
    }
    auto message = ops::zeros({numbers}, dtype);                                             // [sum(E * (D + 1))]
    const auto for_parts = [&](const at::Tensor& all, auto&& fn) {
      std::int64_t begin = 0;
      for (auto* shard : of_dtype) {
        const auto box = box_of(*shard);
        fn(*shard, box, all.narrow(0, begin, replica_numbers(box)));
        begin += replica_numbers(box);
      }
    };
    for_parts(message, [](ShardGradients& shard, const ShardBox& box, const at::Tensor& part) {
      spread_rows(shard.gradients, box.columns(), part);
    });
    for_parts(all_reduce(topology, std::move(message)).wait(), [](ShardGradients& shard, const ShardBox& box, const at::Tensor& part) {
      shard.gradients = marked_rows(part, box);
    });
  }
}

}  // namespace rookery::detail
