// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The values of a step back to the ranks that asked for them: pooled sums, or rows.
//
// One exchange for all lookups of a batch, written where it is sent from; where a plan is hierarchical one more inside the nodes,
// before it. A topology of one process pools into the output.
// Answers to torchrec/distributed compute and output_dist.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/pooled_lookup.hpp>
#include <rookery/sharding/capture.hpp>
#include <rookery/sharding/id_exchange.hpp>
#include <rookery/sharding/routing.hpp>

namespace rookery::detail {

/// Vectors that come back to this rank by a route.
inline std::int64_t own_vectors(const Capture& capture, std::size_t r) { return capture.requests[r].vectors; }

/// Vectors that the route of this rank with number `i` gives to a rank; none where another route of the node gives them.
inline std::int64_t peer_vectors(const Routing& routing, const Capture& capture, std::size_t self, std::size_t i, std::size_t peer) {
  const auto& bags = capture.routed[i][peer];
  const auto r = routing.routes_of[self][i];
  if (bags.rows) return bags.count();
  return routing.gateway(r, peer) == r ? bags.bags : 0;
}

/// Bytes of a block of a route's vectors in a message.
inline std::int64_t block_bytes(const Routing& routing, std::size_t r, std::int64_t vectors, at::ScalarType dtype) {
  return padded(vectors * routing.shard_of(routing.routes[r]).box.columns() * static_cast<std::int64_t>(c10::elementSize(dtype)));
}
/// Bytes of the values that come back to this rank by a route; none of what stays.
inline std::int64_t own_value_bytes(const Routing& routing, const Capture& capture, std::size_t r) {
  if (routing.stays(r, static_cast<std::size_t>(routing.self))) return 0;
  return block_bytes(routing, r, own_vectors(capture, r), routing.value_dtype(routing.routes[r], capture.requests[r].rows));
}
/// Bytes of the values that the route of this rank with number `i` gives to a rank.
inline std::int64_t peer_value_bytes(const Routing& routing, const Capture& capture, std::size_t self, std::size_t i, std::size_t peer) {
  const auto r = routing.routes_of[self][i];
  if (routing.stays(r, peer)) return 0;
  return block_bytes(routing, r, peer_vectors(routing, capture, self, i, peer),
                     routing.value_dtype(routing.routes[r], capture.routed[i][peer].rows));
}

/// A message of bytes, and how many go to and come from each rank.
struct ByteMessage {
  at::Tensor send;                                           // [sum(bytes_out)]
  Counts bytes_out, bytes_in;

  void allocate(c10::Device device = c10::Device(c10::DeviceType::CPU)) {
    std::int64_t total = 0;
    for (const auto bytes : bytes_out) total += bytes;
    send = ops::empty({total}, at::TensorOptions(at::kByte).device(device));
  }
};

/// The lookup of what a route was asked for, in `dtype`.
inline kernels::LookupTask lookup_task(const Routing& routing, const Route& route, const Bags& bags, void* out, std::int64_t out_stride,
                                       at::ScalarType dtype) {
  const auto& storage = routing.shard_of(route).local->storage;
  return {.dtype = storage.dtype(),
          .weights = storage.weight().const_data_ptr(),
          .stride = storage.stride(),
          .dim = storage.dim(),
          .ids = bags.ids,
          .offsets = bags.rows ? nullptr : bags.offsets,
          .sample_weights = bags.weights,
          .bags = bags.rows ? bags.count() : bags.bags,
          .out = out,
          .out_stride = out_stride,
          .out_dtype = dtype,
          .rows = storage.rows()};
}

/// Where the values of a slot go: its columns of the lookup's output, or a tensor of its own.
struct SlotOutput {
  at::Tensor tensor;             // [B, width] or [bags or ids, D]
  std::int64_t column = 0;
};

inline std::vector<SlotOutput> empty_outputs(const Routing& routing, const Capture& capture) {
  const auto empty = [&](std::size_t l, std::int64_t rows, std::int64_t columns) {           // [rows, columns]
    const auto options = at::TensorOptions(routing.lookups[l].dtype).device(routing.device);
    return routing.is_written_whole[l] ? ops::empty({rows, columns}, options) : ops::zeros({rows, columns}, options);
  };
  std::vector<at::Tensor> by_lookup;
  for (std::size_t l = 0; l < routing.lookups.size(); ++l)
    by_lookup.push_back(capture.by_slot[l] ? at::Tensor{} : empty(l, capture.rows[l], routing.lookups[l].width));
  std::vector<SlotOutput> outputs;
  outputs.reserve(routing.slots.size());
  for (std::size_t s = 0; s < routing.slots.size(); ++s) {
    const auto& slot = routing.slots[s];
    const auto dim = routing.tables[slot.table].description.embedding_dim;
    const auto vectors = capture.by_rows[slot.lookup] ? capture.own[s].count() : capture.own[s].bags;
    if (capture.by_slot[slot.lookup]) outputs.push_back({empty(slot.lookup, vectors, dim), 0});
    else outputs.push_back({by_lookup[slot.lookup], slot.column});
  }
  return outputs;
}

/// Pools rows that came back [vectors, columns] into this rank's bags [bags, columns].
template <class Number> at::Tensor pool_here(const Request& request, const Number* rows, std::int64_t columns, at::ScalarType dtype) {
  auto pooled = ops::empty({request.bags.bags, columns}, dtype);                             // [bags, columns]
  const kernels::LookupTask task{.dtype = dtype,
                                 .weights = rows,
                                 .stride = columns,
                                 .dim = columns,
                                 .ids = request.bags.ids,
                                 .offsets = request.bags.offsets,
                                 .sample_weights = request.bags.weights,
                                 .bags = request.bags.bags,
                                 .out = pooled.mutable_data_ptr(),
                                 .out_stride = columns,
                                 .rows = request.vectors};
  kernels::look_up(std::span(&task, 1));
  return pooled;
}

/// Takes a block of vectors that came back for a route to its place in the output: what a shard with all rows gave is all there is, other
/// shards' vectors are added up.
inline void add_block(const Routing& routing, const Capture& capture, std::size_t r, const void* block, const SlotOutput& output) {
  const auto& request = capture.requests[r];
  const auto& box = routing.shard_of(routing.routes[r]).box;
  const bool by_rows = capture.by_rows[routing.lookup_of(r)];
  const auto dtype = output.tensor.scalar_type();
  for_floating(dtype, [&](auto zero) {
    using Number = decltype(zero);
    std::vector<Number> scratch;
    const auto* from = kernels::load(block, request.vectors * box.columns(), routing.value_dtype(routing.routes[r], request.rows), scratch);
    auto* out = output.tensor.template mutable_data_ptr<Number>() + output.column + box.column_begin;
    const bool is_whole = routing.has_all_rows(routing.routes[r]);
    const auto take = [&](std::int64_t to, const Number* vector) {
      auto* row = out + to * output.tensor.stride(0);
      if (is_whole) std::copy_n(vector, box.columns(), row);
      else kernels::add(vector, box.columns(), row);
    };
    if (by_rows) {
      for (std::size_t i = 0; i < request.positions.size(); ++i) take(request.positions[i], from + request.bags.ids[i] * box.columns());
      return;
    }
    at::Tensor pooled;
    if (request.rows) pooled = pool_here(request, from, box.columns(), dtype);
    const auto vectors = request.rows ? request.bags.bags : request.vectors;
    if (request.rows) from = pooled.template const_data_ptr<Number>();
    for (std::int64_t v = 0; v < vectors; ++v) take(v, from + v * box.columns());
  });
}

/// Values of the routes that stay on this rank: in the output if the shard has all rows, else in blocks of their own, per route.
inline std::vector<at::Tensor> look_up_here(const Routing& routing, const Capture& capture, std::span<const SlotOutput> outputs) {
  std::vector<at::Tensor> blocks(routing.routes.size());
  std::vector<kernels::LookupTask> tasks;
  const auto self = static_cast<std::size_t>(routing.self);
  for (const auto r : routing.routes_of[self]) {
    if (!routing.stays(r, self)) continue;
    const auto& route = routing.routes[r];
    const auto& bags = capture.routed[routing.place[r]][self];
    const auto& box = routing.shard_of(route).box;
    const auto& output = outputs[route.slot];
    if (routing.has_all_rows(route)) {
      const auto first = (output.column + box.column_begin) * routing.element_size(route);
      tasks.push_back(lookup_task(routing, route, bags, static_cast<std::byte*>(output.tensor.mutable_data_ptr()) + first,
                                  output.tensor.stride(0), routing.layout_of(route).dtype));
    } else {
      const auto dtype = routing.value_dtype(route, bags.rows);
      blocks[r] = ops::empty({own_vectors(capture, r), box.columns()}, dtype);               // [bags or rows, columns]
      tasks.push_back(lookup_task(routing, route, bags, blocks[r].mutable_data_ptr(), box.columns(), dtype));
    }
  }
  kernels::look_up(tasks);
  return blocks;
}

/// Sums that were added up inside this rank's node: per route of this rank and rank that asked [bags, columns]; undefined where vectors
/// go directly.
using NodeSums = std::vector<std::vector<at::Tensor>>;

/// Calls `fn(rank that asked, route, gateway)` for every block that goes from the shards of `holder` to be added up by `adder`, in the
/// order in which they lie in the message.
template <class Fn> void for_each_relay(const Routing& routing, std::size_t holder, std::size_t adder, Fn&& fn) {
  for (std::size_t asker = 0; asker < routing.routes_of.size(); ++asker)
    for (const auto r : routing.routes_of[holder]) {
      const auto gateway = routing.gateway(r, asker);
      if (gateway != r && static_cast<std::size_t>(routing.shard_of(routing.routes[gateway]).rank) == adder) fn(asker, r, gateway);
    }
}

/// Bytes of the sums of a route for a rank that are added up inside the node; `of_mine` is the route of this rank that tells how many.
inline std::int64_t node_sum_bytes(const Routing& routing, const Capture& capture, std::size_t asker, std::size_t r, std::size_t of_mine) {
  const auto& bags = capture.routed[routing.place[of_mine]][asker];
  return bags.rows ? 0 : block_bytes(routing, r, bags.bags, routing.value_dtype(routing.routes[r], false));
}

/// The message of what this rank's shards have for sums that other ranks of the node add up, not filled yet.
inline ByteMessage node_sum_message(const Routing& routing, const Capture& capture, std::size_t self) {
  const auto ranks = routing.routes_of.size();
  ByteMessage message{.send = {}, .bytes_out = Counts(ranks), .bytes_in = Counts(ranks)};
  for (std::size_t peer = 0; peer < ranks; ++peer) {
    for_each_relay(routing, self, peer, [&](std::size_t asker, std::size_t r, std::size_t) {
      message.bytes_out[peer] += node_sum_bytes(routing, capture, asker, r, r);
    });
    for_each_relay(routing, peer, self, [&](std::size_t asker, std::size_t r, std::size_t gateway) {
      message.bytes_in[peer] += node_sum_bytes(routing, capture, asker, r, gateway);
    });
  }
  message.allocate(routing.device);
  return message;
}
inline ByteMessage pack_node_sums(const Routing& routing, const Capture& capture, std::size_t self) {
  auto message = node_sum_message(routing, capture, self);
  std::vector<kernels::LookupTask> tasks;
  auto* to = message.send.mutable_data_ptr<std::uint8_t>();
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer)
    for_each_relay(routing, self, peer, [&](std::size_t asker, std::size_t r, std::size_t) {
      const auto& route = routing.routes[r];
      const auto& bags = capture.routed[routing.place[r]][asker];
      if (bags.rows) return;
      tasks.push_back(lookup_task(routing, route, bags, to, routing.shard_of(route).box.columns(), routing.value_dtype(route, false)));
      to += node_sum_bytes(routing, capture, asker, r, r);
    });
  kernels::look_up(tasks);
  return message;
}

/// Adds up what this rank's shards have and what came from the others of its node, rank by rank.
inline NodeSums add_node_sums(const Routing& routing, const Capture& capture, std::size_t self, const at::Tensor& received) {
  NodeSums sums(routing.routes_of[self].size(), std::vector<at::Tensor>(routing.routes_of.size()));
  std::vector<kernels::LookupTask> tasks;
  for (std::size_t i = 0; i < sums.size(); ++i)
    for (std::size_t asker = 0; asker < sums[i].size(); ++asker) {
      const auto r = routing.routes_of[self][i];
      const auto& bags = capture.routed[i][asker];
      if (routing.relays[r].empty() || bags.rows || routing.gateway(r, asker) != r) continue;
      const auto& route = routing.routes[r];
      const auto dtype = routing.layout_of(route).dtype;
      sums[i][asker] = ops::empty({bags.bags, routing.shard_of(route).box.columns()}, dtype); // [bags, columns]
      tasks.push_back(lookup_task(routing, route, bags, sums[i][asker].mutable_data_ptr(), sums[i][asker].size(1), dtype));
    }
  kernels::look_up(tasks);
  const auto* from = received.const_data_ptr<std::uint8_t>();
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer)
    for_each_relay(routing, peer, self, [&](std::size_t asker, std::size_t r, std::size_t gateway) {
      auto& sum = sums[routing.place[gateway]][asker];                                       // [bags, columns]
      if (!sum.defined()) return;
      const auto dtype = routing.value_dtype(routing.routes[r], false);
      for_floating(sum.scalar_type(), [&](auto zero) {
        using Number = decltype(zero);
        std::vector<Number> scratch;
        const auto* part = kernels::load(from, sum.numel(), dtype, scratch);
        kernels::add(part, sum.numel(), sum.template mutable_data_ptr<Number>());
      });
      from += block_bytes(routing, r, sum.size(0), dtype);
    });
  return sums;
}

/// Sums of hierarchical tables inside the node. One exchange, only where there are any.
template <class Topology> NodeSums exchange_node_sums(Topology& topology, const Routing& routing, const Capture& capture) {
  const auto self = static_cast<std::size_t>(topology.rank());
  if (!routing.has_relays) return {};
  auto message = pack_node_sums(routing, capture, self);
  return add_node_sums(routing, capture, self, all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait());
}

/// The message of what all ranks asked of this one, not filled yet.
inline ByteMessage value_message(const Routing& routing, const Capture& capture, std::size_t self) {
  const auto ranks = routing.routes_of.size();
  const auto& mine = routing.routes_of[self];
  ByteMessage message{.send = {}, .bytes_out = Counts(ranks), .bytes_in = Counts(ranks)};
  for (std::size_t peer = 0; peer < ranks; ++peer) {
    for (std::size_t i = 0; i < mine.size(); ++i) message.bytes_out[peer] += peer_value_bytes(routing, capture, self, i, peer);
    for (const auto r : routing.routes_of[peer]) message.bytes_in[peer] += own_value_bytes(routing, capture, r);
  }
  message.allocate(routing.device);
  return message;
}

/// Looks up what all ranks asked of this one.
inline ByteMessage pack_values(const Routing& routing, const Capture& capture, std::size_t self, const NodeSums& node_sums) {
  const auto& mine = routing.routes_of[self];
  auto message = value_message(routing, capture, self);
  std::vector<kernels::LookupTask> tasks;
  auto* to = message.send.mutable_data_ptr<std::uint8_t>();
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer)
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const auto& route = routing.routes[mine[i]];
      const auto& bags = capture.routed[i][peer];
      const auto dtype = routing.value_dtype(route, bags.rows);
      if (!node_sums.empty() && node_sums[i][peer].defined()) {
        const auto& sum = node_sums[i][peer];                                                // [bags, columns]
        for_floating(sum.scalar_type(), [&](auto zero) {
          kernels::store(sum.template const_data_ptr<decltype(zero)>(), sum.numel(), dtype, to);
        });
      } else if (!routing.stays(mine[i], peer) && peer_vectors(routing, capture, self, i, peer) > 0) {
        tasks.push_back(lookup_task(routing, route, bags, to, routing.shard_of(route).box.columns(), dtype));
      }
      to += peer_value_bytes(routing, capture, self, i, peer);
    }
  kernels::look_up(tasks);
  return message;
}

/// Adds up what came back and what stays, in route order: the sum does not depend on ranks.
inline void add_values(const Routing& routing, const Capture& capture, const at::Tensor& received, const Counts& bytes_in,
                       std::span<const SlotOutput> outputs) {
  const auto here = look_up_here(routing, capture, outputs);
  std::vector<const std::uint8_t*> from{received.const_data_ptr<std::uint8_t>()};
  for (const auto bytes : bytes_in) from.push_back(from.back() + bytes);
  for (std::size_t r = 0; r < routing.routes.size(); ++r) {
    const auto& output = outputs[routing.routes[r].slot];
    if (routing.stays(r, static_cast<std::size_t>(routing.self))) {
      if (here[r].defined()) add_block(routing, capture, r, here[r].const_data_ptr(), output);
      continue;
    }
    auto*& block = from[static_cast<std::size_t>(routing.shard_of(routing.routes[r]).rank)];
    add_block(routing, capture, r, block, output);
    block += own_value_bytes(routing, capture, r);
  }
}

/// The values of every slot, sums not yet divided. One exchange, or two where a plan is hierarchical; none on one process.
template <class Topology> std::vector<SlotOutput> exchange_values(Topology& topology, const Routing& routing, const Capture& capture) {
  auto outputs = empty_outputs(routing, capture);
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    const auto here = look_up_here(routing, capture, outputs);
    for (std::size_t r = 0; r < here.size(); ++r)
      if (here[r].defined()) add_block(routing, capture, r, here[r].const_data_ptr(), outputs[routing.routes[r].slot]);
  } else {
    const auto node_sums = exchange_node_sums(topology, routing, capture);
    auto message = pack_values(routing, capture, static_cast<std::size_t>(topology.rank()), node_sums);
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
