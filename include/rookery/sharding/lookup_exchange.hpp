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
#include <rookery/sharding/capture.hpp>
#include <rookery/sharding/routing.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery::detail {

/// The ids of `bags` whose rows a shard holds, counted from the shard's first row, in the message of 8-byte words
/// offsets [bags + 1], ids [n], weights [n] where there are any. Under managed collision ids go as they are, by their buckets.
/// Fills `positions` when asked to.
inline std::vector<std::int64_t> bucket(const Bags& bags, const ShardBox& box, const TableDescription& table,
                                        std::vector<std::int64_t>* positions) {
  std::vector<std::int64_t> words{0}, ids, weights;
  const auto& managed = table.managed_collision;
  const auto block = table.row_block();
  for (std::int64_t b = 0; b < bags.bags; ++b) {
    for (auto i = bags.offsets[b] - bags.offsets[0]; i < bags.offsets[b + 1] - bags.offsets[0]; ++i) {
      const auto row = managed ? managed.bucket_of(bags.ids[i]) * block : bags.ids[i];
      if (row < box.row_begin || row >= box.row_end) continue;
      ids.push_back(managed ? bags.ids[i] : row - box.row_begin);
      if (bags.weights) weights.push_back(std::bit_cast<std::int64_t>(bags.weights[i]));
      if (positions) positions->push_back(i);
    }
    words.push_back(static_cast<std::int64_t>(ids.size()));
  }
  words.insert(words.end(), ids.begin(), ids.end());
  words.insert(words.end(), weights.begin(), weights.end());
  return words;
}

/// The bags that `bucket` wrote, and how many words they are.
inline Bags read_bucket(const std::int64_t* words, std::int64_t bags, std::int64_t ids, bool weighted) {
  Bags read{.ids = words + bags + 1, .offsets = words, .bags = bags};
  if (weighted) read.weights = reinterpret_cast<const double*>(read.ids + ids);
  return read;
}
inline std::int64_t bucket_words(std::int64_t bags, std::int64_t ids, bool weighted) { return bags + 1 + ids * (weighted ? 2 : 1); }

/// The bucket of a route; fills `positions` where its lookup comes back by rows.
inline std::vector<std::int64_t> bucket_of(const Routing& routing, Capture& capture, std::size_t r) {
  const auto& route = routing.routes[r];
  if (!routing.asks(r)) return {0};
  return bucket(capture.own[route.slot], routing.shard_of(route).box, routing.table_of(route).description,
                capture.by_rows[routing.lookup_of(r)] ? &capture.positions[r] : nullptr);
}

/// Ids on one process: read where they lie if the shard has all rows.
inline void route_ids_here(const Routing& routing, Capture& capture) {
  for (const auto r : routing.routes_of[0]) {
    const auto& route = routing.routes[r];
    const auto& own = capture.own[route.slot];
    if (routing.has_all_rows(route)) {
      for (std::int64_t i = 0; capture.by_rows[routing.lookup_of(r)] && i < own.count(); ++i) capture.positions[r].push_back(i);
      capture.routed.push_back({own});
    } else {
      const auto* words = capture.keep(bucket_of(routing, capture, r));                      // [words]
      capture.routed.push_back({read_bucket(words, own.bags, words[own.bags], own.weights != nullptr)});
    }
  }
}

/// Ids for the ranks that hold their rows: counts, so that a rank knows what comes, and words.
/// Counts for a rank are: capturing, by_rows of each lookup, bags and ids of each route.
struct IdMessage {
  at::Tensor counts, words;                                  // [sum(counts_out)], [sum(words_out)]
  Counts counts_out, counts_in, words_out;
};

inline IdMessage pack_ids(const Routing& routing, Capture& capture, std::size_t self, bool capturing) {
  const auto head = 1 + routing.lookups.size();
  IdMessage message;
  std::vector<std::int64_t> counts, words;
  for (const auto& theirs : routing.routes_of) {
    const auto before = words.size();
    counts.push_back(capturing);
    counts.insert(counts.end(), capture.by_rows.begin(), capture.by_rows.end());
    for (const auto r : theirs) {
      const auto block = bucket_of(routing, capture, r);
      counts.push_back(routing.asks(r) ? capture.own[routing.routes[r].slot].bags : 0);
      counts.push_back(block[static_cast<std::size_t>(counts.back())]);
      words.insert(words.end(), block.begin(), block.end());
    }
    message.counts_out.push_back(static_cast<std::int64_t>(head + 2 * theirs.size()));
    message.counts_in.push_back(static_cast<std::int64_t>(head + 2 * routing.routes_of[self].size()));
    message.words_out.push_back(static_cast<std::int64_t>(words.size() - before));
  }
  message.counts = host_tensor(counts);
  message.words = host_tensor(words);
  return message;
}

/// Words that come from each rank. Errors: CommunicationError when ranks disagree about capturing or by_rows.
inline Counts words_to_come(const Routing& routing, const Capture& capture, std::size_t self, bool capturing, const at::Tensor& counts) {
  const auto lookups = routing.lookups.size(), head = 1 + lookups;
  const auto& mine = routing.routes_of[self];
  const auto* count = counts.const_data_ptr<std::int64_t>();
  Counts words(routing.routes_of.size());
  for (std::size_t from = 0; from < words.size(); ++from, count += head + 2 * mine.size()) {
    check<CommunicationError>(count[0] == static_cast<std::int64_t>(capturing), "ranks ", self, " and ", from,
                              " disagree about training: one captures gradients and the other does not");
    for (std::size_t l = 0; l < lookups; ++l)
      check<CommunicationError>(count[1 + l] == capture.by_rows[l], "ranks ", self, " and ", from, " disagree about a lookup of '",
                                routing.lookups[l].collection,
                                "': the per-sample weights of one require grad and those of the other do not");
    for (std::size_t i = 0; i < mine.size(); ++i)
      words[from] += bucket_words(count[head + 2 * i], count[head + 2 * i + 1], routing.layout_of(routing.routes[mine[i]]).is_weighted);
  }
  return words;
}

/// Fills `routed` from the words that came.
inline void read_ids(const Routing& routing, Capture& capture, std::size_t self, const at::Tensor& counts, at::Tensor words) {
  const auto head = 1 + routing.lookups.size();
  const auto& mine = routing.routes_of[self];
  const auto* count = counts.const_data_ptr<std::int64_t>();
  const auto* word = words.const_data_ptr<std::int64_t>();
  capture.routed.resize(mine.size());
  for (std::size_t from = 0; from < routing.routes_of.size(); ++from, count += head + 2 * mine.size())
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const bool weighted = routing.layout_of(routing.routes[mine[i]]).is_weighted;
      const auto bags = count[head + 2 * i], ids = count[head + 2 * i + 1];
      capture.routed[i].push_back(read_bucket(word, bags, ids, weighted));
      word += bucket_words(bags, ids, weighted);
    }
  capture.alive.push_back(std::move(words));
}

/// Turns the ids that came into rows, where the shard they came to has a vocabulary.
inline void give_rows(const Routing& routing, Capture& capture, std::size_t self) {
  const auto& mine = routing.routes_of[self];
  capture.raw.resize(mine.size());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const auto& vocabulary = routing.shard_of(routing.routes[mine[i]]).local->vocabulary;
    if (!vocabulary) continue;
    capture.raw[i] = capture.routed[i];
    for (auto& bags : capture.routed[i]) {
      std::vector<std::int64_t> rows;
      for (std::int64_t k = 0; k < bags.count(); ++k) rows.push_back(vocabulary.row_of(bags.ids[k]));
      bags.ids = capture.keep(rows);
    }
  }
}

/// Sends every rank the ids of the rows that it holds; fills `routed` and, where lookups come back by rows, `positions`.
/// `capturing` must be the same on all ranks, and so must by_rows.
template <class Topology> void route_ids(Topology& topology, const Routing& routing, Capture& capture, bool capturing) {
  if constexpr (!Topology::is_distributed) {
    (void)capturing;
    route_ids_here(routing, capture);
  } else {
    const auto self = static_cast<std::size_t>(topology.rank());
    auto message = pack_ids(routing, capture, self, capturing);
    const auto counts = all_to_all_v(topology, std::move(message.counts), message.counts_out, message.counts_in).wait();
    const auto words_in = words_to_come(routing, capture, self, capturing, counts);
    read_ids(routing, capture, self, counts, all_to_all_v(topology, std::move(message.words), message.words_out, words_in).wait());
  }
  give_rows(routing, capture, static_cast<std::size_t>(topology.rank()));
}

/// Vectors that one route sends back to one rank: pooled bags, or rows.
inline std::int64_t vectors_of(const Bags& bags, bool by_rows) { return by_rows ? bags.count() : bags.bags; }

/// Vectors that one route brings to this rank's bags.
inline std::int64_t own_vectors(const Routing& routing, const Capture& capture, std::size_t r) {
  if (capture.by_rows[routing.lookup_of(r)]) return static_cast<std::int64_t>(capture.positions[r].size());
  return routing.asks(r) ? capture.own[routing.routes[r].slot].bags : 0;
}

/// Vectors that the route of this rank with number `i` gives to a rank.
inline std::int64_t peer_vectors(const Routing& routing, const Capture& capture, std::size_t self, std::size_t i, std::size_t peer) {
  return vectors_of(capture.routed[i][peer], capture.by_rows[routing.lookup_of(routing.routes_of[self][i])] != 0);
}

/// Bytes of a route's vectors in a message.
inline std::int64_t block_bytes(const Routing& routing, std::size_t r, std::int64_t vectors) {
  const auto& route = routing.routes[r];
  return padded(vectors * routing.shard_of(route).box.columns() * routing.element_size(route));
}

/// A message of bytes, and how many go to and come from each rank.
struct ByteMessage {
  at::Tensor send;                                           // [sum(bytes_out)]
  Counts bytes_out, bytes_in;

  void allocate() {
    std::int64_t total = 0;
    for (const auto bytes : bytes_out) total += bytes;
    send = at::empty({total}, at::kByte);
  }
};

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

/// Where the values of a slot go: its columns of the lookup's output, or a tensor of its own.
struct SlotOutput {
  at::Tensor tensor;             // [B, width] or [bags or ids, D]
  std::int64_t column = 0;
};

inline std::vector<SlotOutput> empty_outputs(const Routing& routing, const Capture& capture) {
  std::vector<at::Tensor> by_lookup;
  for (std::size_t l = 0; l < routing.lookups.size(); ++l)
    by_lookup.push_back(capture.by_slot[l] ? at::Tensor{}
                                           : at::zeros({capture.rows[l], routing.lookups[l].width}, routing.lookups[l].dtype));
  std::vector<SlotOutput> outputs;
  for (std::size_t s = 0; s < routing.slots.size(); ++s) {
    const auto& slot = routing.slots[s];
    const auto dim = routing.tables[slot.table].description.embedding_dim;
    const auto vectors = vectors_of(capture.own[s], capture.by_rows[slot.lookup]);
    if (capture.by_slot[slot.lookup]) outputs.push_back({at::zeros({vectors, dim}, routing.lookups[slot.lookup].dtype), 0});
    else outputs.push_back({by_lookup[slot.lookup], slot.column});
  }
  return outputs;
}

/// Adds a block of vectors that came back for a route to its place in the output.
inline void add_block(const Routing& routing, const Capture& capture, std::size_t r, const void* block, const SlotOutput& output) {
  const auto& box = routing.shard_of(routing.routes[r]).box;
  const bool by_rows = capture.by_rows[routing.lookup_of(r)];
  const auto vectors = own_vectors(routing, capture, r);
  for_floating(output.tensor.scalar_type(), [&](auto zero) {
    using Number = decltype(zero);
    const auto* from = static_cast<const Number*>(block);
    auto* out = output.tensor.template mutable_data_ptr<Number>() + output.column + box.column_begin;
    for (std::int64_t v = 0; v < vectors; ++v, from += box.columns()) {
      Number* to = out + (by_rows ? capture.positions[r][static_cast<std::size_t>(v)] : v) * output.tensor.stride(0);
      for (std::int64_t d = 0; d < box.columns(); ++d) to[d] += from[d];
    }
  });
}

/// Values on one process: pooled into the output if the shard has all rows.
inline void look_up_here(const Routing& routing, const Capture& capture, std::span<const SlotOutput> outputs) {
  for (std::size_t i = 0; i < routing.routes_of[0].size(); ++i) {
    const auto r = routing.routes_of[0][i];
    const auto& route = routing.routes[r];
    const auto& bags = capture.routed[i][0];
    const auto& output = outputs[route.slot];
    const auto& box = routing.shard_of(route).box;
    const bool by_rows = capture.by_rows[routing.lookup_of(r)];
    if (routing.has_all_rows(route)) {
      auto* out =
          static_cast<std::byte*>(output.tensor.mutable_data_ptr()) + (output.column + box.column_begin) * routing.element_size(route);
      look_up(routing, route, bags, by_rows, out, output.tensor.stride(0));
    } else {
      const auto block = at::empty({vectors_of(bags, by_rows), box.columns()}, routing.layout_of(route).dtype);   // [bags or ids, columns]
      look_up(routing, route, bags, by_rows, block.mutable_data_ptr(), box.columns());
      add_block(routing, capture, r, block.const_data_ptr(), output);
    }
  }
}

/// Looks up what all ranks asked of this one.
inline ByteMessage pack_values(const Routing& routing, const Capture& capture, std::size_t self) {
  const auto ranks = routing.routes_of.size();
  const auto& mine = routing.routes_of[self];
  ByteMessage message{.send = {}, .bytes_out = Counts(ranks), .bytes_in = Counts(ranks)};
  for (std::size_t peer = 0; peer < ranks; ++peer) {
    for (std::size_t i = 0; i < mine.size(); ++i)
      message.bytes_out[peer] += block_bytes(routing, mine[i], peer_vectors(routing, capture, self, i, peer));
    for (const auto r : routing.routes_of[peer]) message.bytes_in[peer] += block_bytes(routing, r, own_vectors(routing, capture, r));
  }
  message.allocate();
  auto* to = message.send.mutable_data_ptr<std::uint8_t>();
  for (std::size_t peer = 0; peer < ranks; ++peer)
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const auto& route = routing.routes[mine[i]];
      look_up(routing, route, capture.routed[i][peer], capture.by_rows[routing.lookup_of(mine[i])], to,
              routing.shard_of(route).box.columns());
      to += block_bytes(routing, mine[i], peer_vectors(routing, capture, self, i, peer));
    }
  return message;
}

/// Adds up what came back, in route order: the sum does not depend on ranks.
inline void add_values(const Routing& routing, const Capture& capture, const at::Tensor& received, const Counts& bytes_in,
                       std::span<const SlotOutput> outputs) {
  std::vector<const std::uint8_t*> from{received.const_data_ptr<std::uint8_t>()};
  for (const auto bytes : bytes_in) from.push_back(from.back() + bytes);
  for (std::size_t r = 0; r < routing.routes.size(); ++r) {
    auto*& block = from[static_cast<std::size_t>(routing.shard_of(routing.routes[r]).rank)];
    add_block(routing, capture, r, block, outputs[routing.routes[r].slot]);
    block += block_bytes(routing, r, own_vectors(routing, capture, r));
  }
}

/// The values of every slot, sums not yet divided. One exchange; none on one process.
template <class Topology> std::vector<SlotOutput> exchange_values(Topology& topology, const Routing& routing, const Capture& capture) {
  auto outputs = empty_outputs(routing, capture);
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    look_up_here(routing, capture, outputs);
  } else {
    auto message = pack_values(routing, capture, static_cast<std::size_t>(topology.rank()));
    const auto received = all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait();
    add_values(routing, capture, received, message.bytes_in, outputs);                       // [sum(bytes_in)]
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
      for (std::int64_t b = 0; b < capture.own[s].bags; ++b) {
        const double divisor = capture.divisors[s][static_cast<std::size_t>(b)];
        auto* row = outputs[s].tensor.template mutable_data_ptr<Number>() + b * outputs[s].tensor.stride(0) + outputs[s].column;
        for (std::int64_t d = 0; d < dim; ++d) row[d] = divisor == 0 ? Number{0} : row[d] / static_cast<Number>(divisor);
      }
    });
  }
}

}  // namespace rookery::detail
