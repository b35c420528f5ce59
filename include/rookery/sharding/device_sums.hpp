// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What ranks add up of a step's rows where tables are on a device: gradients of tables that have a copy on every rank, and the rules' sums
// over rows whose columns are split.
//
// Which rows these are is said from host to host; the numbers go from device to device.
// Answers to torchrec's data_parallel sharding.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/device/upload.hpp>
#include <rookery/sharding/device_gradients.hpp>
#include <rookery/sharding/gradient_exchange.hpp>

namespace rookery::detail {

/// How many rows of each shard, then all rows.
[[gnu::cold]] inline at::Tensor pack_row_numbers(std::span<ShardGradients* const> shards) {
  std::vector<std::int64_t> words;
  for (const auto* shard : shards) words.push_back(static_cast<std::int64_t>(shard->gradients.rows.size()));
  for (const auto* shard : shards) words.insert(words.end(), shard->gradients.rows.begin(), shard->gradients.rows.end());
  return host_tensor(words);                                                                 // [words]
}

/// Adds up in rank order what ranks have of some shards: `numbers` as pack_row_numbers gave them, `sums` one after the other.
[[gnu::cold]] inline void add_device_rows(const std::vector<at::Tensor>& numbers, const std::vector<at::Tensor>& sums,
                            std::span<ShardGradients* const> shards, c10::Device device) {
  kernels::Upload upload;
  std::vector<RowSums> told;
  std::vector<std::vector<std::int64_t>> counts(shards.size());                              // per shard and rank
  std::vector<std::int64_t> taken(numbers.size(), static_cast<std::int64_t>(shards.size()));
  for (std::size_t s = 0; s < shards.size(); ++s) {
    std::vector<std::int64_t> rows;
    for (std::size_t rank = 0; rank < numbers.size(); ++rank) {
      const auto* words = numbers[rank].const_data_ptr<std::int64_t>();
      rows.insert(rows.end(), words + taken[rank], words + taken[rank] + words[s]);
      taken[rank] += words[s];
      counts[s].push_back(words[s]);
    }
    std::vector<std::int64_t> sources(rows.size());
    std::iota(sources.begin(), sources.end(), std::int64_t{0});
    told.push_back(RowSums::told(upload, rows, sources, {}));
  }
  upload.send(device);
  std::vector<std::int64_t> begins(sums.size());
  for (std::size_t s = 0; s < shards.size(); ++s) {
    auto& own = shards[s]->gradients;
    const auto columns = own.sums.size(1);
    std::vector<at::Tensor> parts;                                                           // each [rows of the rank, columns]
    for (std::size_t rank = 0; rank < sums.size(); ++rank) {
      parts.push_back(sums[rank].narrow(0, begins[rank], counts[s][rank] * columns).view({counts[s][rank], columns}));
      begins[rank] += counts[s][rank] * columns;
    }
    own.sums = told[s].sums.of(upload, ops::cat(parts), own.sums.scalar_type());                                // [U, columns]
    own.rows_there = upload.integers(told[s].rows_there);                                    // [U]
    own.rows = std::move(told[s].rows);
  }
}

/// sum_replicas on a device: rows that ranks have seen are gathered, however many they are.
/// Cost:  two all-gathers for each dtype that such tables have; none without them.
template <class Topology>
[[gnu::cold]] void sum_device_replicas(Topology& topology, const Routing& routing, std::span<ShardGradients> shards) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    std::vector<ShardGradients*> of_dtype;
    std::vector<at::Tensor> sums;                                                            // each [U * columns]
    for (auto& shard : shards) {
      const auto& table = routing.tables[shard.table];
      if (!table.is_replicated || compute_dtype(table.description.data_type) != dtype) continue;
      of_dtype.push_back(&shard);
      sums.push_back(shard.gradients.sums.reshape({-1}));
    }
    if (of_dtype.empty()) continue;
    const auto numbers = all_gather_v(topology, pack_row_numbers(of_dtype)).wait();
    add_device_rows(numbers, all_gather_v(topology, ops::cat(sums)).wait(), of_dtype, routing.device);
  }
}

/// This rank's part of the sums over rows that no shard has whole, [sum(sizes_out)].
[[gnu::cold]] inline at::Tensor pack_device_row_sums(const RowSumMessage& message, std::span<const ShardGradients> shards,
                                                     c10::Device device) {
  std::vector<at::Tensor> parts{ops::empty({0}, at::TensorOptions(at::kDouble).device(device))};
  for (const auto& piece : message.outgoing)
    if (piece.begin < piece.end)
      parts.push_back(shards[piece.mine].gradients.row_sums.reshape({-1}).narrow(0, static_cast<std::int64_t>(piece.begin),
                                                                                static_cast<std::int64_t>(piece.end - piece.begin)));
  return ops::cat(parts);
}
/// Replaces the sums of split rows by those that arrived, added up in column order.
[[gnu::cold]] inline void add_device_row_sums(const RowSumMessage& message, const at::Tensor& received, const Routing& routing,
                                std::span<ShardGradients> shards) {
  std::vector<std::int64_t> columns, begins{0};
  for (const auto& piece : message.incoming) {
    columns.push_back(piece.column);
    begins.push_back(begins.back() + static_cast<std::int64_t>(piece.end - piece.begin));
  }
  for (auto& shard : shards)
    if (has_split_sums(routing.tables[shard.table]) && shard.gradients.row_sums.defined()) shard.gradients.row_sums.zero_();
  for (const auto i : kernels::transpose(columns).order) {                                   // by column
    const auto& piece = message.incoming[static_cast<std::size_t>(i)];
    const auto count = static_cast<std::int64_t>(piece.end - piece.begin);
    if (count == 0) continue;
    shards[piece.mine].gradients.row_sums.view({-1}).narrow(0, static_cast<std::int64_t>(piece.begin), count)
        .add_(received.narrow(0, begins[static_cast<std::size_t>(i)], count));
  }
}

/// complete_row_sums on a device, of the `row_sums` of shards.
template <class Topology>
[[gnu::cold]] void complete_device_row_sums(Topology& topology, const Routing& routing, std::span<ShardGradients> shards) {
  if (std::none_of(routing.tables.begin(), routing.tables.end(), has_split_sums)) return;
  const auto message = list_row_sums(routing, shards, static_cast<std::size_t>(topology.world_size()));
  auto send = pack_device_row_sums(message, shards, routing.device);                         // [sum(sizes_out)]
  const auto received = all_to_all_v(topology, std::move(send), message.sizes_out, message.sizes_in).wait();   // [sum(sizes_in)]
  add_device_row_sums(message, received, routing, shards);
}

}  // namespace rookery::detail
