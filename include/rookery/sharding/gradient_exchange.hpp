// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The gradient half of a step: gradients of pooled values to the shards whose rows they came from, and summed there by row.
//
// First phase of a step: exchange. Second: sum the gradients of each distinct row, over features, ranks, rows of the batch and
// accumulated batches, in that fixed order, which is the order that one process would take on the global batch.
// Third: complete the sums over whole rows that some rules need, where a table's columns are split.
// Answers to torchrec/distributed output_dist backward and FBGEMM's gradient sum.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/operators.hpp>
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

/// The gradients of the rows that a route gave to this rank's ids [rows, columns], each summed over the ids that have it. Vector v of
/// `gradient` begins v * `stride` bytes on.
inline void sum_for_rows(const Request& request, bool by_rows, const std::vector<double>& divisors, const void* gradient,
                         std::int64_t stride, std::int64_t columns, at::ScalarType dtype, void* out) {
  const auto* first = static_cast<const std::byte*>(gradient);
  kernels::Occurrences occurrences;
  for (std::size_t i = 0; by_rows && i < request.positions.size(); ++i)
    occurrences.add(request.bags.ids[i], first + request.positions[i] * stride, 1.0);
  for (std::int64_t b = 0; !by_rows && b < request.bags.bags; ++b)
    for (auto i = request.bags.offsets[b]; i < request.bags.offsets[b + 1]; ++i) {
      const double weight = request.bags.weights ? request.bags.weights[i] : 1.0;
      const double divisor = divisors.empty() ? 1.0 : divisors[static_cast<std::size_t>(b)];
      occurrences.add(request.bags.ids[i], first + b * stride, divisor == 0 ? 0.0 : weight / divisor);
    }
  kernels::sum_row_gradients(occurrences, request.repeats, dtype, columns, out);
}

/// The gradient vectors of one route, packed [vectors, columns]: of its bags, divided for mean pooling, or of its rows; zeros where
/// there is no gradient.
inline void pack_gradients(const Capture& capture, const Routing& routing, std::size_t r, const at::Tensor& gradient,
                           at::ScalarType packed_dtype, void* packed) {
  const auto& route = routing.routes[r];
  const auto& slot = routing.slots[route.slot];
  const auto& box = routing.shard_of(route).box;
  const auto& request = capture.requests[r];
  const auto& divisors = capture.divisors[route.slot];
  const auto dtype = routing.layout_of(route).dtype;
  const auto count = request.vectors * box.columns();
  for_floating(dtype, [&](auto zero) {
    using Number = decltype(zero);
    std::vector<Number> beside(kernels::is_narrow(packed_dtype) ? static_cast<std::size_t>(count) : 0);
    auto* const first = kernels::is_narrow(packed_dtype) ? beside.data() : static_cast<Number*>(packed);
    if (!gradient.defined()) {
      std::fill_n(first, count, Number{0});
    } else {
      const auto* from = gradient.const_data_ptr<Number>() + (capture.by_slot[slot.lookup] ? 0 : slot.column) + box.column_begin;
      if (request.rows)
        sum_for_rows(request, capture.by_rows[slot.lookup], divisors, from, gradient.stride(0) * routing.element_size(route), box.columns(),
                     dtype, first);
      auto* out = first;
      for (std::int64_t v = 0; !request.rows && v < request.vectors; ++v, out += box.columns()) {
        std::copy_n(from + v * gradient.stride(0), box.columns(), out);
        if (divisors.empty()) continue;
        const double divisor = divisors[static_cast<std::size_t>(v)];
        for (std::int64_t d = 0; d < box.columns(); ++d) out[d] = divisor == 0 ? Number{0} : out[d] / static_cast<Number>(divisor);
      }
    }
    if (!beside.empty()) kernels::store(first, count, packed_dtype, packed);
  });
}

/// Gradients that arrived for one route of this rank from one rank: vectors of `columns` numbers, `stride` bytes apart.
struct GradientBlock {
  const std::byte* first = nullptr;
  std::int64_t stride = 0;
  const double* divisors = nullptr;          // of each vector; null: 1; what is divided by 0 is 0
};

/// What one capture received: per route of this rank and source, and whether any rank's loss reached each slot.
struct ReceivedGradients {
  std::vector<std::vector<GradientBlock>> blocks;
  std::vector<char> reached;
  std::vector<at::Tensor> alive;
};

/// Gradients of what stays on this rank: read where they lie unless they must be picked; a zero where there are none.
inline GradientBlock read_gradients_here(const Routing& routing, const Capture& capture, std::size_t r, ReceivedGradients& received) {
  const auto& route = routing.routes[r];
  const auto& slot = routing.slots[route.slot];
  const auto& box = routing.shard_of(route).box;
  auto gradient = gradient_of(capture, routing, route.slot);
  if (!gradient.defined()) {                                                                 // other ranks may have one
    received.alive.push_back(ops::zeros({box.columns()}, routing.layout_of(route).dtype));
    return {static_cast<const std::byte*>(received.alive.back().const_data_ptr()), 0};
  }
  std::int64_t column = (capture.by_slot[slot.lookup] ? 0 : slot.column) + box.column_begin;
  const double* divisors = nullptr;
  if (!routing.has_all_rows(route)) {
    auto packed = ops::empty({own_vectors(capture, r), box.columns()}, gradient.options());
    pack_gradients(capture, routing, r, gradient, gradient.scalar_type(), packed.mutable_data_ptr());
    gradient = std::move(packed);                                                            // [bags or rows, columns]
    column = 0;
  } else if (!capture.divisors[route.slot].empty() && !capture.by_rows[slot.lookup]) {
    divisors = capture.divisors[route.slot].data();
  }
  received.alive.push_back(gradient);
  const auto size = routing.element_size(route);
  return {static_cast<const std::byte*>(gradient.const_data_ptr()) + column * size, gradient.stride(0) * size, divisors};
}

/// Gradients on one process.
inline std::vector<ReceivedGradients> read_gradients(const Routing& routing, std::span<const Capture> captures) {
  std::vector<ReceivedGradients> received;
  for (const auto& capture : captures) {
    auto& one = received.emplace_back();
    one.reached = reached_slots(capture, routing);
    for (const auto r : routing.routes_of[0]) one.blocks.push_back({read_gradients_here(routing, capture, r, one)});
  }
  return received;
}

/// Bytes of the gradients that this rank sends by a route, and that the route of this rank with number `i` has from a rank; none of
/// what stays.
inline std::int64_t own_gradient_bytes(const Routing& routing, const Capture& capture, std::size_t r) {
  if (routing.stays(r, static_cast<std::size_t>(routing.self))) return 0;
  return block_bytes(routing, r, own_vectors(capture, r), routing.gradient_dtype(routing.routes[r]));
}
inline std::int64_t peer_gradient_bytes(const Routing& routing, const Capture& capture, std::size_t self, std::size_t i, std::size_t peer) {
  const auto r = routing.routes_of[self][i];
  if (routing.stays(r, peer)) return 0;
  return block_bytes(routing, r, peer_vectors(routing, capture, self, i, peer), routing.gradient_dtype(routing.routes[r]));
}

/// The message of gradients, not filled yet: for each rank and capture so many bytes of flags, and the gradients of what its shards gave.
inline ByteMessage gradient_message(const Routing& routing, std::span<const Capture> captures, std::size_t self, std::int64_t flags) {
  const auto ranks = routing.routes_of.size();
  const auto& mine = routing.routes_of[self];
  ByteMessage message{.send = {}, .bytes_out = Counts(ranks), .bytes_in = Counts(ranks)};
  for (const auto& capture : captures)
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      message.bytes_out[peer] += padded(flags);
      message.bytes_in[peer] += padded(flags);
      for (const auto r : routing.routes_of[peer]) message.bytes_out[peer] += own_gradient_bytes(routing, capture, r);
      for (std::size_t i = 0; i < mine.size(); ++i) message.bytes_in[peer] += peer_gradient_bytes(routing, capture, self, i, peer);
    }
  message.allocate(routing.device);
  return message;
}

/// For each rank and capture: which slots the loss reached, and the gradients of what its shards gave to this rank.
inline ByteMessage pack_gradients(const Routing& routing, std::span<const Capture> captures, std::size_t self) {
  const auto flags = static_cast<std::int64_t>(routing.slots.size());
  auto message = gradient_message(routing, captures, self, flags);
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
        if (routing.stays(r, self)) continue;
        pack_gradients(captures[c], routing, r, gradients[c][routing.routes[r].slot], routing.gradient_dtype(routing.routes[r]), to);
        to += own_gradient_bytes(routing, captures[c], r);
      }
    }
  return message;
}

/// What arrived and what stays, as pointers into it.
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
        if (routing.stays(mine[i], peer)) {
          received[c].blocks[i].push_back(read_gradients_here(routing, captures[c], mine[i], received[c]));
          continue;
        }
        const auto& route = routing.routes[mine[i]];
        const auto size = static_cast<std::int64_t>(c10::elementSize(routing.gradient_dtype(route)));
        received[c].blocks[i].push_back({from, routing.shard_of(route).box.columns() * size, nullptr});
        from += peer_gradient_bytes(routing, captures[c], self, i, peer);
      }
    }
  return received;
}

/// Bytes of the gradients of sums that were added up inside the node, as node_sum_bytes.
inline std::int64_t node_gradient_bytes(const Routing& routing, const Capture& capture, std::size_t asker, std::size_t r,
                                        std::size_t of_mine) {
  const auto& bags = capture.routed[routing.place[of_mine]][asker];
  return bags.rows ? 0 : block_bytes(routing, r, bags.bags, routing.gradient_dtype(routing.routes[r]));
}

/// The message of gradients of sums that this rank added up for its node, to the shards that they are sums of; not filled yet.
inline ByteMessage node_gradient_message(const Routing& routing, std::span<const Capture> captures, std::size_t self) {
  const auto ranks = routing.routes_of.size();
  ByteMessage message{.send = {}, .bytes_out = Counts(ranks), .bytes_in = Counts(ranks)};
  for (const auto& capture : captures)
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      for_each_relay(routing, peer, self, [&](std::size_t asker, std::size_t r, std::size_t gateway) {
        message.bytes_out[peer] += node_gradient_bytes(routing, capture, asker, r, gateway);
      });
      for_each_relay(routing, self, peer, [&](std::size_t asker, std::size_t r, std::size_t) {
        message.bytes_in[peer] += node_gradient_bytes(routing, capture, asker, r, r);
      });
    }
  message.allocate(routing.device);
  return message;
}
inline ByteMessage pack_node_gradients(const Routing& routing, std::span<const Capture> captures, std::size_t self,
                                       std::span<const ReceivedGradients> received) {
  auto message = node_gradient_message(routing, captures, self);
  auto* to = reinterpret_cast<std::byte*>(message.send.mutable_data_ptr<std::uint8_t>());
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer)
    for (std::size_t c = 0; c < captures.size(); ++c)
      for_each_relay(routing, peer, self, [&](std::size_t asker, std::size_t r, std::size_t gateway) {
        to = std::copy_n(received[c].blocks[routing.place[gateway]][asker].first,
                         node_gradient_bytes(routing, captures[c], asker, r, gateway), to);
      });
  return message;
}

/// Points to the gradients that arrived from the adders of this rank's node.
inline void read_node_gradients(const Routing& routing, std::span<const Capture> captures, std::size_t self, const at::Tensor& arrived,
                                std::span<ReceivedGradients> received) {
  const auto* from = reinterpret_cast<const std::byte*>(arrived.const_data_ptr<std::uint8_t>());
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer)
    for (std::size_t c = 0; c < captures.size(); ++c)
      for_each_relay(routing, self, peer, [&](std::size_t asker, std::size_t r, std::size_t) {
        const auto& bags = captures[c].routed[routing.place[r]][asker];
        if (bags.rows) return;
        received[c].blocks[routing.place[r]][asker].first = from;
        from += block_bytes(routing, r, bags.bags, routing.gradient_dtype(routing.routes[r]));
      });
  for (auto& one : received) one.alive.push_back(arrived);
}

/// First phase. One exchange for all captures, or two where a plan is hierarchical; none on one process.
template <class Topology>
std::vector<ReceivedGradients> exchange_gradients(Topology& topology, const Routing& routing, std::span<const Capture> captures) {
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    return read_gradients(routing, captures);
  } else {
    const auto self = static_cast<std::size_t>(topology.rank());
    auto message = pack_gradients(routing, captures, self);
    auto received = read_gradients(routing, captures, self,
                                   all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait());
    if (!routing.has_relays) return received;
    message = pack_node_gradients(routing, captures, self, received);
    read_node_gradients(routing, captures, self,
                        all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait(), received);
    return received;
  }
}

/// The gradients that reached a shard of this rank, and their dtype on the way.
struct ShardSources {
  std::vector<kernels::GradientSource> sources;              // in their fixed order: by pass, feature, rank; then by bag
  at::ScalarType dtype = at::ScalarType::Undefined;
};
inline ShardSources sources_of(const Routing& routing, std::size_t self, const AskedShard& asked, std::span<const Capture> captures,
                               std::span<const ReceivedGradients> received) {
  ShardSources found;
  for (std::size_t c = 0; c < captures.size(); ++c)
    for (const auto i : asked.routes) {
      const auto& route = routing.routes[routing.routes_of[self][i]];
      if (!received[c].reached[route.slot]) continue;
      found.dtype = routing.gradient_dtype(route);
      for (std::size_t peer = 0; peer < received[c].blocks[i].size(); ++peer) {
        const auto& bags = captures[c].routed[i][peer];
        const auto& block = received[c].blocks[i][peer];
        found.sources.push_back({.ids = bags.ids,
                                 .offsets = bags.rows ? nullptr : bags.offsets,
                                 .weights = bags.rows ? nullptr : bags.weights,
                                 .divisors = block.divisors,
                                 .bags = bags.rows ? bags.count() : bags.bags,
                                 .first = block.first,
                                 .stride = block.stride});
      }
    }
  return found;
}

/// The same, id by id.
inline kernels::Occurrences occurrences_of(const ShardSources& found) {
  kernels::Occurrences occurrences;
  occurrences.dtype = found.dtype;
  std::int64_t count = 0;
  for (const auto& source : found.sources) count += source.count();
  occurrences.reserve(static_cast<std::size_t>(count));
  for (const auto& source : found.sources)
    for (std::int64_t b = 0; b < source.bags; ++b)
      for (auto i = source.first_of(b); i < source.first_of(b + 1); ++i) {
        const double weight = source.weights ? source.weights[i] : 1.0, divisor = source.divisors ? source.divisors[b] : 1.0;
        occurrences.add(source.ids[i], source.first + b * source.stride, divisor == 0 ? 0.0 : weight / divisor);
      }
  return occurrences;
}

/// Whether a table's rule needs sums over rows that no shard has whole.
inline bool has_split_sums(const PlacedTable& table) {
  return table.description.row_sums > 0 && std::any_of(table.shards.begin(), table.shards.end(), [&](const PlacedShard& shard) {
           return shard.box.columns() != table.description.embedding_dim;
         });
}

/// Whether rows of a table can be updated while their gradients are summed: its shards have all that their update needs. On every rank
/// the same.
inline bool can_fuse(const Routing& routing, const PlacedTable& table) {
  constexpr std::int64_t most_rows = std::int64_t{1} << 32;
  const bool widens = routing.exchange.backward_precision != CommType::fp32 && table.description.data_type == at::kDouble;
  return !table.description.frozen && !routing.on_device() && !widens && !has_split_sums(table) &&
         (!table.is_replicated || routing.routes_of.size() == 1) &&
         std::all_of(table.shards.begin(), table.shards.end(), [](const PlacedShard& shard) { return shard.box.rows() <= most_rows; });
}
inline bool can_fuse_any(const Routing& routing) {
  return std::any_of(routing.tables.begin(), routing.tables.end(), [&](const PlacedTable& table) { return can_fuse(routing, table); });
}

/// Second phase: the distinct rows of every local shard that trains, with their gradients summed; `fusing` leaves out those that can be
/// fused.
inline std::vector<ShardGradients> sum_gradients(const Routing& routing, std::size_t self, std::span<const Capture> captures,
                                                 std::span<const ReceivedGradients> received, bool fusing) {
  std::vector<ShardGradients> sums;
  for (const auto& asked : routing.asked) {
    const auto& table = routing.tables[asked.table];
    if (table.description.frozen || (fusing && can_fuse(routing, table))) continue;
    const auto columns = table.shards[asked.shard].box.columns();
    const auto occurrences = occurrences_of(sources_of(routing, self, asked, captures, received));
    auto transposed = kernels::transpose(occurrences.rows);
    const auto distinct = static_cast<std::int64_t>(transposed.rows.size());
    ShardGradients one{asked.table, asked.shard,
                       {.rows = {}, .sums = ops::empty({distinct, columns}, compute_dtype(table.description.data_type))}};
    kernels::sum_row_gradients(occurrences, transposed, one.gradients.sums.scalar_type(), columns, one.gradients.sums.mutable_data_ptr());
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
  std::vector<Piece> outgoing, incoming;       // by rank
  at::Tensor send;                             // [sum(sizes_out)]
  Counts sizes_out, sizes_in;
};

/// Lists every pair (shard here, shard there) of overlapping rows, in the order that both sides walk: receiver's shard, then sender's.
inline RowSumMessage list_row_sums(const Routing& routing, std::span<const ShardGradients> shards, std::size_t ranks) {
  using Piece = RowSumMessage::Piece;
  std::vector<std::vector<Piece>> outgoing(ranks), incoming(ranks);
  for (std::size_t t = 0; t < routing.tables.size(); ++t) {
    const auto& table = routing.tables[t];
    if (!has_split_sums(table)) continue;
    const auto width = static_cast<std::size_t>(table.description.row_sums);
    std::vector<std::int64_t> number(table.shards.size(), -1);                               // among the local ones
    for (std::size_t i = 0; i < shards.size(); ++i)
      if (shards[i].table == t) number[shards[i].shard] = static_cast<std::int64_t>(i);
    for (const auto& receiver : table.shards)
      for (const auto& sender : table.shards) {
        if (!receiver.local && !sender.local) continue;
        const auto begin = std::max(receiver.box.row_begin, sender.box.row_begin), end = std::min(receiver.box.row_end, sender.box.row_end);
        if (begin >= end) continue;
        const auto add = [&](const PlacedShard& here, const PlacedShard& there, std::vector<std::vector<Piece>>& list) {
          const auto i = number[static_cast<std::size_t>(&here - table.shards.data())];
          if (i < 0) return;
          const auto mine = static_cast<std::size_t>(i);
          const auto [first, last] = rows_between(shards[mine].gradients, here.box, begin, end);
          list[static_cast<std::size_t>(there.rank)].push_back({mine, first * width, last * width, sender.box.column_begin});
        };
        add(sender, receiver, outgoing);
        add(receiver, sender, incoming);
      }
  }
  RowSumMessage message{.outgoing = {}, .incoming = {}, .send = {}, .sizes_out = Counts(ranks), .sizes_in = Counts(ranks)};
  const auto append = [](const std::vector<Piece>& pieces, std::vector<Piece>& all, std::int64_t& size) {
    for (const auto& piece : pieces) {
      all.push_back(piece);
      size += static_cast<std::int64_t>(piece.end - piece.begin);
    }
  };
  for (std::size_t peer = 0; peer < ranks; ++peer) {
    append(outgoing[peer], message.outgoing, message.sizes_out[peer]);
    append(incoming[peer], message.incoming, message.sizes_in[peer]);
  }
  return message;
}
inline RowSumMessage pack_row_sums(const Routing& routing, std::span<const ShardGradients> shards, std::size_t ranks,
                                   const std::vector<std::vector<double>>& partial) {
  auto message = list_row_sums(routing, shards, ranks);
  std::vector<double> words;
  for (const auto& piece : message.outgoing) {
    const auto* sums = partial[piece.mine].data();
    words.insert(words.end(), sums + piece.begin, sums + piece.end);
  }
  message.send = host_tensor(words);                                                         // [sum(sizes_out)]
  return message;
}

/// Replaces the sums of split rows by those that arrived, added up in column order. Pieces of one column share no row.
inline void add_row_sums(RowSumMessage message, const at::Tensor& received, const Routing& routing, std::span<const ShardGradients> shards,
                         std::vector<std::vector<double>>& sums) {
  const auto* next = received.const_data_ptr<double>();
  std::vector<std::int64_t> columns;
  for (auto& piece : message.incoming) {
    piece.sums = next;
    next += piece.end - piece.begin;
    columns.push_back(piece.column);
  }
  for (std::size_t i = 0; i < shards.size(); ++i)
    if (has_split_sums(routing.tables[shards[i].table])) std::fill(sums[i].begin(), sums[i].end(), 0.0);
  for (const auto i : kernels::transpose(columns).order) {                                   // by column
    const auto& piece = message.incoming[static_cast<std::size_t>(i)];
    for (auto k = piece.begin; k < piece.end; ++k) sums[piece.mine][k] += piece.sums[k - piece.begin];
  }
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
