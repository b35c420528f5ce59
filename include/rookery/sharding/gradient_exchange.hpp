// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The gradient half of a step: gradients of pooled values to the shards whose rows they came from, and summed there by row.
//
// First phase of a step: exchange. Second: sum the gradients of each distinct row, over features, ranks, rows of the batch and
// accumulated batches, in that fixed order, which is the order that one process would take on the global batch.
// Third: complete the sums over whole rows that some rules need, where a table's columns are split.
// Answers to torchrec/distributed output_dist backward and FBGEMM's gradient sum.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/kernels/cpu/transpose.hpp>
#include <rookery/sharding/lookup_exchange.hpp>
#include <rookery/sharding/routing.hpp>

namespace rookery::detail {

/// The summed gradients of one local shard; `table` of the routing.
struct ShardGradients {
  std::size_t table = 0, shard = 0;
  RowGradients gradients;
};

/// The gradient that a backward pass left on what a slot was given, contiguous; undefined when the loss did not reach it.
inline at::Tensor gradient_of(const Capture& capture, const Routing& routing, std::size_t slot) {
  const auto lookup = routing.slots[slot].lookup;
  const auto& leaf = capture.by_slot[lookup] ? capture.slot_leaves[slot] : capture.leaves[lookup];
  const auto& gradient = leaf.grad();
  return gradient.defined() ? gradient.contiguous() : gradient;                              // [B, width] or [bags or ids, D]
}

/// Whether this rank's loss reached what each slot was given.
inline std::vector<char> reached_slots(const Capture& capture, const Routing& routing) {
  std::vector<char> reached(routing.slots.size());
  for (std::size_t s = 0; s < routing.slots.size(); ++s)
    reached[s] = gradient_of(capture, routing, s).defined();
  return reached;
}

/// The gradient vectors of one route, packed [vectors, columns], divided for mean pooling; zeros where there is no gradient.
inline void pack_gradients(const Capture& capture, const Routing& routing, std::size_t r, const at::Tensor& gradient, void* packed) {
  const auto& route = routing.routes[r];
  const auto& slot = routing.slots[route.slot];
  const auto& box = routing.shard_of(route).box;
  const bool by_rows = capture.by_rows[slot.lookup];
  const auto vectors = own_vectors(routing, capture, r);
  const auto& divisors = capture.divisors[route.slot];
  for_floating(routing.layout_of(route).dtype, [&](auto zero) {
    using Number = decltype(zero);
    auto* out = static_cast<Number*>(packed);
    if (!gradient.defined()) {
      std::fill_n(out, vectors * box.columns(), Number{0});
      return;
    }
    const auto* from = gradient.const_data_ptr<Number>() + (capture.by_slot[slot.lookup] ? 0 : slot.column) + box.column_begin;
    for (std::int64_t v = 0; v < vectors; ++v, out += box.columns()) {
      std::copy_n(from + (by_rows ? capture.positions[r][static_cast<std::size_t>(v)] : v) * gradient.stride(0), box.columns(), out);
      if (by_rows || divisors.empty()) continue;
      const double divisor = divisors[static_cast<std::size_t>(v)];
      for (std::int64_t d = 0; d < box.columns(); ++d) out[d] = divisor == 0 ? Number{0} : out[d] / static_cast<Number>(divisor);
    }
  });
}

/// Gradients that arrived for one route of this rank from one rank: vectors of `columns` numbers, `stride` bytes apart.
struct GradientBlock {
  const std::byte* first = nullptr;
  std::int64_t stride = 0;
};

/// What one capture received: per route of this rank and source, and whether any rank's loss reached each slot.
struct ReceivedGradients {
  std::vector<std::vector<GradientBlock>> blocks;
  std::vector<char> reached;
  std::vector<at::Tensor> alive;
};

/// Gradients on one process: read where they lie unless they must be divided or picked.
inline std::vector<ReceivedGradients> read_gradients(const Routing& routing, std::span<const Capture> captures) {
  std::vector<ReceivedGradients> received;
  for (const auto& capture : captures) {
    auto& one = received.emplace_back();
    one.reached = reached_slots(capture, routing);
    for (const auto r : routing.routes_of[0]) {
      const auto& route = routing.routes[r];
      const auto& slot = routing.slots[route.slot];
      const auto& box = routing.shard_of(route).box;
      const bool by_rows = capture.by_rows[slot.lookup];
      auto gradient = gradient_of(capture, routing, route.slot);
      std::int64_t column = (capture.by_slot[slot.lookup] ? 0 : slot.column) + box.column_begin;
      if (gradient.defined() && (by_rows ? !routing.has_all_rows(route) : !capture.divisors[route.slot].empty())) {
        auto packed = at::empty({own_vectors(routing, capture, r), box.columns()}, gradient.options());
        pack_gradients(capture, routing, r, gradient, packed.mutable_data_ptr());
        gradient = std::move(packed);                                                        // [bags or ids, columns]
        column = 0;
      }
      GradientBlock block;
      if (gradient.defined()) {
        const auto size = routing.element_size(route);
        block = {static_cast<const std::byte*>(gradient.const_data_ptr()) + column * size, gradient.stride(0) * size};
      }
      one.blocks.push_back({block});
      one.alive.push_back(std::move(gradient));
    }
  }
  return received;
}

/// For each rank and capture: which slots the loss reached, and the gradients of the routes whose shards the rank holds.
inline ByteMessage pack_gradients(const Routing& routing, std::span<const Capture> captures, std::size_t self) {
  const auto ranks = routing.routes_of.size();
  const auto flags = static_cast<std::int64_t>(routing.slots.size());
  const auto& mine = routing.routes_of[self];
  ByteMessage message{.send = {}, .bytes_out = Counts(ranks), .bytes_in = Counts(ranks)};
  for (const auto& capture : captures)
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      message.bytes_out[peer] += padded(flags);
      message.bytes_in[peer] += padded(flags);
      for (const auto r : routing.routes_of[peer]) message.bytes_out[peer] += block_bytes(routing, r, own_vectors(routing, capture, r));
      for (std::size_t i = 0; i < mine.size(); ++i)
        message.bytes_in[peer] += block_bytes(routing, mine[i], peer_vectors(routing, capture, self, i, peer));
    }
  message.allocate();
  auto* to = message.send.mutable_data_ptr<std::uint8_t>();
  std::vector<std::vector<char>> reached;
  std::vector<std::vector<at::Tensor>> gradients(captures.size());
  for (std::size_t c = 0; c < captures.size(); ++c) {
    reached.push_back(reached_slots(captures[c], routing));
    for (std::size_t s = 0; s < routing.slots.size(); ++s) gradients[c].push_back(gradient_of(captures[c], routing, s));
  }
  for (const auto& theirs : routing.routes_of)
    for (std::size_t c = 0; c < captures.size(); ++c) {
      std::fill(std::copy(reached[c].begin(), reached[c].end(), to), to + padded(flags), std::uint8_t{0});
      to += padded(flags);
      for (const auto r : theirs) {
        pack_gradients(captures[c], routing, r, gradients[c][routing.routes[r].slot], to);
        to += block_bytes(routing, r, own_vectors(routing, captures[c], r));
      }
    }
  return message;
}

/// What arrived, as pointers into it.
inline std::vector<ReceivedGradients> read_gradients(const Routing& routing, std::span<const Capture> captures, std::size_t self,
                                                     const at::Tensor& arrived) {
  const auto& mine = routing.routes_of[self];
  std::vector<ReceivedGradients> received(captures.size());
  for (auto& one : received) {
    one.blocks.resize(mine.size());
    one.reached.resize(routing.slots.size());
    one.alive.push_back(arrived);
  }
  const auto* from = reinterpret_cast<const std::byte*>(arrived.const_data_ptr<std::uint8_t>());
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer)
    for (std::size_t c = 0; c < captures.size(); ++c) {
      for (std::size_t slot = 0; slot < routing.slots.size(); ++slot) received[c].reached[slot] |= static_cast<char>(from[slot]);
      from += padded(static_cast<std::int64_t>(routing.slots.size()));
      for (std::size_t i = 0; i < mine.size(); ++i) {
        const auto& route = routing.routes[mine[i]];
        received[c].blocks[i].push_back({from, routing.shard_of(route).box.columns() * routing.element_size(route)});
        from += block_bytes(routing, mine[i], peer_vectors(routing, captures[c], self, i, peer));
      }
    }
  return received;
}

/// First phase. One exchange for all captures; none on one process.
template <class Topology>
std::vector<ReceivedGradients> exchange_gradients(Topology& topology, const Routing& routing, std::span<const Capture> captures) {
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    return read_gradients(routing, captures);
  } else {
    const auto self = static_cast<std::size_t>(topology.rank());
    auto message = pack_gradients(routing, captures, self);
    return read_gradients(routing, captures, self,
                          all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait());
  }
}

/// Second phase: the distinct rows of every local shard that trains, with their gradients summed.
inline std::vector<ShardGradients> sum_gradients(const Routing& routing, std::size_t self, std::span<const Capture> captures,
                                                 std::span<const ReceivedGradients> received) {
  std::vector<ShardGradients> sums;
  for (std::size_t t = 0; t < routing.tables.size(); ++t)
    for (std::size_t s = 0; s < routing.tables[t].shards.size(); ++s) {
      const auto& shard = routing.tables[t].shards[s];
      if (!shard.local || routing.tables[t].description.frozen) continue;
      kernels::Occurrences occurrences;
      for (std::size_t c = 0; c < captures.size(); ++c)
        for (std::size_t i = 0; i < routing.routes_of[self].size(); ++i) {
          const auto& route = routing.routes[routing.routes_of[self][i]];
          const auto& slot = routing.slots[route.slot];
          if (slot.table != t || route.shard != s || !received[c].reached[route.slot]) continue;
          const bool by_rows = captures[c].by_rows[slot.lookup];
          for (std::size_t peer = 0; peer < received[c].blocks[i].size(); ++peer) {
            const auto& bags = captures[c].routed[i][peer];
            const auto& block = received[c].blocks[i][peer];
            for (std::int64_t b = 0; b < bags.bags; ++b)
              for (auto id = bags.offsets[b] - bags.offsets[0]; id < bags.offsets[b + 1] - bags.offsets[0]; ++id)
                occurrences.add(bags.ids[id], block.first + (by_rows ? id : b) * block.stride,
                                by_rows || !bags.weights ? 1.0 : bags.weights[id]);
          }
        }
      auto transposed = kernels::transpose(occurrences);
      const auto distinct = static_cast<std::int64_t>(transposed.rows.size());
      ShardGradients one{
          t, s, {.rows = {}, .sums = at::empty({distinct, shard.box.columns()}, compute_dtype(routing.tables[t].description.data_type))}};
      kernels::sum_row_gradients(occurrences, transposed, one.gradients.sums.scalar_type(), shard.box.columns(),
                                 one.gradients.sums.mutable_data_ptr());
      one.gradients.rows = std::move(transposed.rows);
      sums.push_back(std::move(one));
    }
  return sums;
}

/// Distinct rows of a shard that lie in table rows [begin, end): their positions.
inline std::pair<std::size_t, std::size_t> rows_between(const RowGradients& gradients, const ShardBox& box, std::int64_t begin,
                                                        std::int64_t end) {
  const auto first = std::lower_bound(gradients.rows.begin(), gradients.rows.end(), begin - box.row_begin);
  const auto last = std::lower_bound(gradients.rows.begin(), gradients.rows.end(), end - box.row_begin);
  return {static_cast<std::size_t>(first - gradients.rows.begin()), static_cast<std::size_t>(last - gradients.rows.begin())};
}

/// Sums over the columns of a shard's rows on their way to the shards that hold the other columns. Shards of one row range see the
/// same ids, so both sides know which rows are meant.
struct RowSumMessage {
  /// Rows of a local shard that another shard has as well.
  struct Piece {
    std::size_t mine = 0;                      // of the local shards
    std::size_t begin = 0, end = 0;            // of its sums
    std::int64_t column = 0;                   // where the sender's columns begin
    const double* sums = nullptr;              // once arrived
  };
  std::vector<Piece> incoming;
  at::Tensor send;                             // [sum(sizes_out)]
  Counts sizes_out, sizes_in;
};

/// Whether a table's rule needs sums over rows that no shard has whole.
inline bool has_split_sums(const PlacedTable& table) {
  return table.description.row_sums > 0 && std::any_of(table.shards.begin(), table.shards.end(), [&](const PlacedShard& shard) {
           return shard.box.columns() != table.description.embedding_dim;
         });
}

/// Packs every pair (shard here, shard there) of overlapping rows, in the order that both sides walk: receiver's shard, then sender's.
inline RowSumMessage pack_row_sums(const Routing& routing, std::span<const ShardGradients> shards, std::size_t ranks,
                                   const std::vector<std::vector<double>>& partial) {
  using Piece = RowSumMessage::Piece;
  std::vector<std::vector<Piece>> outgoing(ranks), incoming(ranks);
  for (std::size_t t = 0; t < routing.tables.size(); ++t) {
    const auto& table = routing.tables[t];
    if (!has_split_sums(table)) continue;
    const auto width = static_cast<std::size_t>(table.description.row_sums);
    for (const auto& receiver : table.shards)
      for (const auto& sender : table.shards) {
        const auto begin = std::max(receiver.box.row_begin, sender.box.row_begin), end = std::min(receiver.box.row_end, sender.box.row_end);
        if (begin >= end) continue;
        const auto add = [&](const PlacedShard& here, const PlacedShard& there, std::vector<std::vector<Piece>>& list) {
          for (std::size_t i = 0; i < shards.size(); ++i) {
            if (shards[i].table != t || &table.shards[shards[i].shard] != &here) continue;
            const auto [first, last] = rows_between(shards[i].gradients, here.box, begin, end);
            list[static_cast<std::size_t>(there.rank)].push_back({i, first * width, last * width, sender.box.column_begin});
          }
        };
        add(sender, receiver, outgoing);
        add(receiver, sender, incoming);
      }
  }
  RowSumMessage message{.incoming = {}, .send = {}, .sizes_out = Counts(ranks), .sizes_in = Counts(ranks)};
  std::vector<double> words;
  for (std::size_t peer = 0; peer < ranks; ++peer) {
    for (const auto& piece : outgoing[peer]) {
      const auto* sums = partial[piece.mine].data();
      words.insert(words.end(), sums + piece.begin, sums + piece.end);
      message.sizes_out[peer] += static_cast<std::int64_t>(piece.end - piece.begin);
    }
    for (const auto& piece : incoming[peer]) {
      message.incoming.push_back(piece);
      message.sizes_in[peer] += static_cast<std::int64_t>(piece.end - piece.begin);
    }
  }
  message.send = at::empty({static_cast<std::int64_t>(words.size())}, at::kDouble);          // [sum(sizes_out)]
  std::copy(words.begin(), words.end(), message.send.mutable_data_ptr<double>());
  return message;
}

/// Replaces the sums of split rows by those that arrived, added up in column order. Pieces of one column share no row.
inline void add_row_sums(RowSumMessage message, const at::Tensor& received, const Routing& routing, std::span<const ShardGradients> shards,
                         std::vector<std::vector<double>>& sums) {
  const auto* next = received.const_data_ptr<double>();
  for (auto& piece : message.incoming) {
    piece.sums = next;
    next += piece.end - piece.begin;
  }
  std::sort(message.incoming.begin(), message.incoming.end(), [](const auto& a, const auto& b) { return a.column < b.column; });
  for (std::size_t i = 0; i < shards.size(); ++i)
    if (has_split_sums(routing.tables[shards[i].table])) std::fill(sums[i].begin(), sums[i].end(), 0.0);
  for (const auto& piece : message.incoming)
    for (auto k = piece.begin; k < piece.end; ++k) sums[piece.mine][k] += piece.sums[k - piece.begin];
}

/// Third phase: adds up `sums[i]` (of shards[i], [U, row_sums]) over the shards that hold the other columns of the same rows.
/// One exchange when any table that needs it has its columns split; else none.
template <class Topology>
void complete_row_sums(Topology& topology, const Routing& routing, std::span<const ShardGradients> shards,
                       std::vector<std::vector<double>>& sums) {
  if (std::none_of(routing.tables.begin(), routing.tables.end(), has_split_sums)) return;
  auto message = pack_row_sums(routing, shards, static_cast<std::size_t>(topology.world_size()), sums);
  const auto received = all_to_all_v(topology, std::move(message.send), message.sizes_out, message.sizes_in).wait();   // [sum(sizes_in)]
  add_row_sums(std::move(message), received, routing, shards, sums);
}

}  // namespace rookery::detail
