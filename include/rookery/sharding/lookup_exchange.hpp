// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The lookup half of a step: ids to the shards that hold their rows, pooled rows back.
//
// One exchange of counts and one of ids for all lookups of a batch, then one of pooled values. A topology of one process reads
// the batch where it lies and pools into the output. What a step needs later is kept in a Capture.
// Answers to torchrec/distributed input_dist, compute and output_dist.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/kernels/cpu/pooled_lookup.hpp>
#include <rookery/sharding/routing.hpp>

namespace rookery::detail {

/// Bags of ids as plain pointers into tensors that a Capture keeps alive.
struct Bags {
  const std::int64_t* ids = nullptr;
  const std::int64_t* offsets = nullptr;     // [bags + 1]; id i of the task is ids[i - offsets[0]]
  const double* weights = nullptr;
  std::int64_t bags = 0;
  std::int64_t count() const { return bags == 0 ? 0 : offsets[bags] - offsets[0]; }
};

/// One forward pass, as far as its step needs it.
struct Capture {
  std::int64_t rows = 0;                                     // B of this rank
  std::vector<char> by_rows;                                 // per lookup: rows came back unpooled, see below
  std::vector<Bags> own;                                     // per slot: this rank's bags
  std::vector<std::vector<double>> divisors;                 // per slot: of each bag, for mean pooling; else empty
  std::vector<std::vector<std::int64_t>> positions;          // per route, by rows: which of the slot's ids went there
  std::vector<std::vector<Bags>> routed;                     // per route of this rank, per source rank
  std::vector<at::Tensor> leaves;                            // per lookup: the pooled values given to the model [B, width]
  std::vector<at::Tensor> row_leaves;                        // per slot, by rows: [ids, D]
  at::Tensor normaliser;                                     // [] of this rank
  std::vector<at::Tensor> alive;                             // what the pointers point into
};

/// This rank's bags of every slot, checked. Ids of another width than int64 are copied.
/// Errors: IndexError naming feature, table, row, position, id and table size; ShapeError on a different batch size or weightedness.
inline Capture own_bags(const Routing& routing, std::span<const KeyedJaggedTensor> inputs) {
  Capture capture;
  capture.by_rows.resize(inputs.size());
  capture.rows = inputs.empty() ? 0 : inputs.front().stride();
  for (std::size_t l = 0; l < inputs.size(); ++l) {
    check<ShapeError>(inputs[l].stride() == capture.rows, "lookup ", l, " has ", inputs[l].stride(), " rows; the batch has ", capture.rows);
    check<ShapeError>(inputs[l].is_weighted() == routing.lookups[l].is_weighted, "lookup ", l, " is given ids ",
                      inputs[l].is_weighted() ? "with" : "without", " weights, but its collection has is_weighted = ", routing.lookups[l].is_weighted);
    capture.by_rows[l] = inputs[l].is_weighted() && inputs[l].weights().requires_grad();
    capture.alive.push_back(inputs[l].offsets());
  }
  for (const auto& slot : routing.slots) {
    const auto& input = inputs[slot.lookup];
    const auto& table = routing.tables[slot.table].description;
    const auto f = input.index_of(slot.feature);
    const auto feature = input.feature(f);
    auto ids = feature.values().to(at::kCPU, at::kLong).contiguous();                        // [n]
    Bags bags{.ids = ids.const_data_ptr<std::int64_t>(),
              .offsets = input.offsets().const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(f) * capture.rows,
              .bags = capture.rows};
    capture.alive.push_back(std::move(ids));
    if (input.is_weighted()) {
      auto weights = feature.weights().detach().to(at::kCPU, at::kDouble).contiguous();      // [n]
      bags.weights = weights.const_data_ptr<double>();
      capture.alive.push_back(std::move(weights));
    }
    for (std::int64_t i = 0; i < bags.count(); ++i) {
      if (bags.ids[i] >= 0 && bags.ids[i] < table.num_embeddings) [[likely]] continue;
      const auto row = std::upper_bound(bags.offsets, bags.offsets + bags.bags + 1, bags.offsets[0] + i) - bags.offsets - 1;
      fail<IndexError>("feature '", slot.feature, "' of table '", table.name, "': id ", bags.ids[i], " at position ",
                       bags.offsets[0] + i - bags.offsets[row], " of row ", row, "; the table has ", table.num_embeddings, " rows");
    }
    std::vector<double> divisors;
    if (table.pooling == PoolingType::mean)
      for (std::int64_t b = 0; b < bags.bags; ++b) {
        double divisor = bags.weights ? 0 : static_cast<double>(bags.offsets[b + 1] - bags.offsets[b]);
        if (bags.weights)
          for (auto i = bags.offsets[b]; i < bags.offsets[b + 1]; ++i) divisor += bags.weights[i - bags.offsets[0]];
        divisors.push_back(divisor);
      }
    capture.divisors.push_back(std::move(divisors));
    capture.own.push_back(bags);
  }
  capture.positions.resize(routing.routes.size());
  return capture;
}

/// The ids of `bags` whose rows a shard holds, counted from the shard's first row, in the message of 8-byte words
/// offsets [bags + 1], ids [n], weights [n] where there are any. Fills `positions` when asked to.
inline std::vector<std::int64_t> bucket(const Bags& bags, const ShardBox& box, std::vector<std::int64_t>* positions) {
  std::vector<std::int64_t> words{0}, ids, weights;
  for (std::int64_t b = 0; b < bags.bags; ++b) {
    for (auto i = bags.offsets[b] - bags.offsets[0]; i < bags.offsets[b + 1] - bags.offsets[0]; ++i) {
      if (bags.ids[i] < box.row_begin || bags.ids[i] >= box.row_end) continue;
      ids.push_back(bags.ids[i] - box.row_begin);
      if (bags.weights) weights.push_back(std::bit_cast<std::int64_t>(bags.weights[i]));
      if (positions) positions->push_back(i);
    }
    words.push_back(static_cast<std::int64_t>(ids.size()));
  }
  words.insert(words.end(), ids.begin(), ids.end());
  words.insert(words.end(), weights.begin(), weights.end());
  return words;
}

/// Sends every rank the ids of the rows that it holds; fills `routed` and, where lookups come back by rows, `positions`.
/// `capturing` must be the same on all ranks, and so must by_rows.
template <class Topology> void route_ids(Topology& topology, const Routing& routing, Capture& capture, bool capturing) {
  const auto self = static_cast<std::size_t>(topology.rank());
  if constexpr (!Topology::is_distributed) {
    for (const auto r : routing.routes_of[self]) capture.routed.push_back({capture.own[routing.routes[r].slot]});
    for (std::size_t r = 0; r < routing.routes.size(); ++r) {
      if (!capture.by_rows[routing.slots[routing.routes[r].slot].lookup]) continue;
      for (std::int64_t i = 0; i < capture.own[routing.routes[r].slot].count(); ++i) capture.positions[r].push_back(i);
    }
  } else {
    const auto ranks = static_cast<std::size_t>(topology.world_size());
    const std::size_t head = 2 + routing.lookups.size();
    std::vector<std::int64_t> counts, words;
    Counts count_sizes(ranks), counts_in(ranks, static_cast<std::int64_t>(head + routing.routes_of[self].size())), word_sizes(ranks);
    for (std::size_t to = 0; to < ranks; ++to) {
      const auto before = words.size();
      counts.push_back(capture.rows);
      counts.push_back(capturing);
      counts.insert(counts.end(), capture.by_rows.begin(), capture.by_rows.end());
      for (const auto r : routing.routes_of[to]) {
        const auto& route = routing.routes[r];
        const bool by_rows = capture.by_rows[routing.slots[route.slot].lookup];
        const auto block = bucket(capture.own[route.slot], routing.shard_of(route).box, by_rows ? &capture.positions[r] : nullptr);
        counts.push_back(block[static_cast<std::size_t>(capture.rows)]);
        words.insert(words.end(), block.begin(), block.end());
      }
      count_sizes[to] = static_cast<std::int64_t>(head + routing.routes_of[to].size());
      word_sizes[to] = static_cast<std::int64_t>(words.size() - before);
    }
    const auto as_tensor = [](const std::vector<std::int64_t>& values) {
      auto tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
      std::copy(values.begin(), values.end(), tensor.template mutable_data_ptr<std::int64_t>());
      return tensor;
    };
    const auto received_counts = all_to_all_v(topology, as_tensor(counts), count_sizes, counts_in).wait();   // [W * (head + routes)]
    Counts words_in(ranks);
    const auto* count = received_counts.template const_data_ptr<std::int64_t>();
    for (std::size_t from = 0; from < ranks; ++from, count += counts_in[self]) {
      check<CommunicationError>(count[1] == static_cast<std::int64_t>(capturing), "ranks ", self, " and ", from,
                                " disagree about training: one captures gradients and the other does not");
      for (std::size_t l = 0; l < routing.lookups.size(); ++l)
        check<CommunicationError>(count[2 + l] == capture.by_rows[l], "ranks ", self, " and ", from, " disagree about lookup ", l,
                                  ": the per-sample weights of one require grad and those of the other do not");
      for (std::size_t i = 0; i < routing.routes_of[self].size(); ++i) {
        const bool weighted = routing.layout_of(routing.routes[routing.routes_of[self][i]]).is_weighted;
        words_in[from] += count[0] + 1 + count[head + i] * (weighted ? 2 : 1);
      }
    }
    auto received = all_to_all_v(topology, as_tensor(words), word_sizes, words_in).wait();                   // [sum(words_in)]
    capture.routed.assign(routing.routes_of[self].size(), {});
    const auto* word = received.template const_data_ptr<std::int64_t>();
    count = received_counts.template const_data_ptr<std::int64_t>();
    for (std::size_t from = 0; from < ranks; ++from, count += counts_in[self])
      for (std::size_t i = 0; i < routing.routes_of[self].size(); ++i) {
        const bool weighted = routing.layout_of(routing.routes[routing.routes_of[self][i]]).is_weighted;
        const auto n = count[head + i];
        Bags bags{.ids = word + count[0] + 1, .offsets = word, .bags = count[0]};
        if (weighted) bags.weights = reinterpret_cast<const double*>(bags.ids + n);
        capture.routed[i].push_back(bags);
        word = bags.ids + n * (weighted ? 2 : 1);
      }
    capture.alive.push_back(std::move(received));
  }
}

/// Vectors that one route sends back to one rank: pooled bags, or rows.
inline std::int64_t vectors_of(const Bags& bags, bool by_rows) { return by_rows ? bags.count() : bags.bags; }

/// Looks up what a route asks of a local shard.
inline void look_up(const Routing& routing, const Route& route, const Bags& bags, bool by_rows, void* out, std::int64_t out_stride) {
  const auto& storage = routing.shard_of(route).local->storage;
  const kernels::LookupTask task{.dtype = storage.dtype(),
                                 .weights = storage.weight().const_data_ptr(),
                                 .stride = storage.stride(),
                                 .dim = storage.dim(),
                                 .ids = bags.ids,
                                 .offsets = bags.offsets,
                                 .sample_weights = bags.weights,
                                 .bags = bags.bags,
                                 .out = out,
                                 .out_stride = out_stride};
  by_rows ? kernels::row_lookup(task) : kernels::pooled_lookup(task);
}

/// Where the values of a slot go: its columns of the lookup's output, or its rows.
struct SlotOutput {
  at::Tensor tensor;             // [B, width] or [ids, D]
  std::int64_t column = 0;
};

inline std::vector<SlotOutput> empty_outputs(const Routing& routing, const Capture& capture) {
  std::vector<at::Tensor> by_lookup;
  for (std::size_t l = 0; l < routing.lookups.size(); ++l)
    by_lookup.push_back(capture.by_rows[l] ? at::Tensor{} : at::zeros({capture.rows, routing.lookups[l].width}, routing.lookups[l].dtype));
  std::vector<SlotOutput> outputs;
  for (std::size_t s = 0; s < routing.slots.size(); ++s) {
    const auto& slot = routing.slots[s];
    const auto dim = routing.tables[slot.table].description.embedding_dim;
    if (capture.by_rows[slot.lookup]) outputs.push_back({at::zeros({capture.own[s].count(), dim}, routing.lookups[slot.lookup].dtype), 0});
    else outputs.push_back({by_lookup[slot.lookup], slot.column});
  }
  return outputs;
}

/// Adds a block of vectors that came back for a route to its place in the output.
template <class Number>
void add_block(const Number* block, const ShardBox& box, const std::vector<std::int64_t>& positions, bool by_rows, std::int64_t vectors, const SlotOutput& output) {
  auto* out = output.tensor.mutable_data_ptr<Number>() + output.column + box.column_begin;
  for (std::int64_t v = 0; v < vectors; ++v) {
    Number* to = out + (by_rows ? positions[static_cast<std::size_t>(v)] : v) * output.tensor.stride(0);
    for (std::int64_t d = 0; d < box.columns(); ++d) to[d] += block[v * box.columns() + d];
  }
}

/// The values of every slot, sums not yet divided. One exchange; none on one process.
template <class Topology> std::vector<SlotOutput> exchange_values(Topology& topology, const Routing& routing, const Capture& capture) {
  const auto self = static_cast<std::size_t>(topology.rank());
  auto outputs = empty_outputs(routing, capture);
  const auto by_rows = [&](std::size_t r) { return capture.by_rows[routing.slots[routing.routes[r].slot].lookup] != 0; };
  if constexpr (!Topology::is_distributed) {
    for (std::size_t i = 0; i < routing.routes_of[self].size(); ++i) {
      const auto r = routing.routes_of[self][i];
      const auto& route = routing.routes[r];
      const auto& output = outputs[route.slot];
      const auto column = output.column + routing.shard_of(route).box.column_begin;
      auto* out = static_cast<std::byte*>(output.tensor.mutable_data_ptr()) + column * routing.element_size(route);
      look_up(routing, route, capture.routed[i][0], by_rows(r), out, output.tensor.stride(0));
    }
  } else {
    const auto ranks = static_cast<std::size_t>(topology.world_size());
    const auto block_bytes = [&](const Route& route, std::int64_t vectors) {
      return padded(vectors * routing.shard_of(route).box.columns() * routing.element_size(route));
    };
    const auto vectors_back = [&](std::size_t r) {
      return by_rows(r) ? static_cast<std::int64_t>(capture.positions[r].size()) : capture.rows;
    };
    Counts bytes_out(ranks), bytes_in(ranks);
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      for (std::size_t i = 0; i < routing.routes_of[self].size(); ++i) {
        const auto r = routing.routes_of[self][i];
        bytes_out[peer] += block_bytes(routing.routes[r], vectors_of(capture.routed[i][peer], by_rows(r)));
      }
      for (const auto r : routing.routes_of[peer]) bytes_in[peer] += block_bytes(routing.routes[r], vectors_back(r));
    }
    std::int64_t total = 0;
    for (const auto bytes : bytes_out) total += bytes;
    auto send = at::empty({total}, at::kByte);                                               // [sum(bytes_out)]
    auto* to = send.template mutable_data_ptr<std::uint8_t>();
    for (std::size_t peer = 0; peer < ranks; ++peer)
      for (std::size_t i = 0; i < routing.routes_of[self].size(); ++i) {
        const auto r = routing.routes_of[self][i];
        const auto& route = routing.routes[r];
        look_up(routing, route, capture.routed[i][peer], by_rows(r), to, routing.shard_of(route).box.columns());
        to += block_bytes(route, vectors_of(capture.routed[i][peer], by_rows(r)));
      }
    const auto received = all_to_all_v(topology, std::move(send), bytes_out, bytes_in).wait();   // [sum(bytes_in)]
    std::vector<const std::uint8_t*> from(ranks);
    const auto* next = received.template const_data_ptr<std::uint8_t>();
    for (std::size_t peer = 0; peer < ranks; next += bytes_in[peer++]) from[peer] = next;
    for (std::size_t r = 0; r < routing.routes.size(); ++r) {                                // route order: the sum does not depend on ranks
      const auto& route = routing.routes[r];
      const auto& shard = routing.shard_of(route);
      auto*& block = from[static_cast<std::size_t>(shard.rank)];
      for_floating(routing.layout_of(route).dtype, [&](auto zero) {
        add_block(reinterpret_cast<const decltype(zero)*>(block), shard.box, capture.positions[r], by_rows(r), vectors_back(r), outputs[route.slot]);
      });
      block += block_bytes(route, vectors_back(r));
    }
  }
  return outputs;
}

/// Divides the pooled sums of mean slots by their bags' divisors; a bag whose divisor is zero gives zeros.
inline void divide_means(const Routing& routing, const Capture& capture, std::span<const SlotOutput> outputs) {
  for (std::size_t s = 0; s < routing.slots.size(); ++s) {
    if (capture.divisors[s].empty() || capture.by_rows[routing.slots[s].lookup]) continue;
    const auto dim = routing.tables[routing.slots[s].table].description.embedding_dim;
    for_floating(outputs[s].tensor.scalar_type(), [&](auto zero) {
      using Number = decltype(zero);
      for (std::int64_t b = 0; b < capture.rows; ++b) {
        const double divisor = capture.divisors[s][static_cast<std::size_t>(b)];
        auto* row = outputs[s].tensor.template mutable_data_ptr<Number>() + b * outputs[s].tensor.stride(0) + outputs[s].column;
        for (std::int64_t d = 0; d < dim; ++d) row[d] = divisor == 0 ? Number{0} : row[d] / static_cast<Number>(divisor);
      }
    });
  }
}

}  // namespace rookery::detail
