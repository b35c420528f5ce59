// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The gradient half of a step where tables are on a device: sent and summed there, in the order of gradient_exchange.hpp.
//
// Distinct rows and the order of their gradients are found on the host, and go to the device in one copy a step. What another rank's loss
// reached is said from host to host, so nothing comes back from the device.
// Answers to torchrec/distributed output_dist backward and FBGEMM's gradient sum.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/cpu/transpose.hpp>
#include <rookery/kernels/device/lookup.hpp>
#include <rookery/kernels/device/upload.hpp>
#include <rookery/sharding/device_values.hpp>
#include <rookery/sharding/gradient_exchange.hpp>

namespace rookery::detail {

/// Sums of the gradients that reached each row: the transpose of a list of them, told to a device.
struct RowSums {
  std::vector<std::int64_t> rows;                            // [U] ascending
  std::size_t rows_there = 0;
  kernels::PickedSums sums;

  /// Gradient i is vector sources[i] times factors[i], none of which may be given for 1, and reached row occurrences[i].
  [[gnu::cold]] static RowSums told(kernels::Upload& upload, std::span<const std::int64_t> occurrences,
                                    const std::vector<std::int64_t>& sources, const std::vector<double>& factors) {
    auto transposed = kernels::transpose(occurrences);
    RowSums sums{.rows = {}, .rows_there = upload.add(transposed.rows), .sums = picked(upload, transposed, sources, factors)};
    sums.rows = std::move(transposed.rows);
    return sums;
  }
  /// The sums alone, of a list that is transposed already.
  [[gnu::cold]] static kernels::PickedSums picked(kernels::Upload& upload, const kernels::Transposed& transposed,
                                    const std::vector<std::int64_t>& sources, const std::vector<double>& factors) {
    std::vector<std::int64_t> vectors;
    std::vector<double> times;
    vectors.reserve(sources.size());
    times.reserve(factors.size());
    for (const auto i : transposed.order) {
      vectors.push_back(sources[static_cast<std::size_t>(i)]);
      if (!factors.empty()) times.push_back(factors[static_cast<std::size_t>(i)]);
    }
    return kernels::PickedSums::told(upload, vectors, times, transposed.starts);
  }
};

/// One step on a device.
class DeviceGradients {
 public:
  /// `reached` says of each capture which slots the loss of any rank reached.
  [[gnu::cold]] DeviceGradients(const Routing& routing, std::span<const Capture> captures, std::vector<std::vector<char>> reached)
      : routing_(routing), captures_(captures), reached_(std::move(reached)), self_(static_cast<std::size_t>(routing.self)),
        blocks_(captures.size()) {
    for (std::size_t c = 0; c < captures.size(); ++c) {
      for (std::size_t r = 0; r < routing.routes.size(); ++r) tell_request(c, r);
      for (std::size_t s = 0; s < routing.slots.size(); ++s) {
        const bool divides = !captures[c].divisors[s].empty() && !captures[c].by_rows[routing.slots[s].lookup];
        divisors_.push_back(divides ? upload_.add(divisors_there(captures[c].divisors[s])) : nothing);
        gradients_.push_back(gradient_of(captures[c], routing, s));                          // [B, width] or [bags or ids, D]
      }
      blocks_[c].assign(mine().size(), std::vector<at::Tensor>(routing.routes_of.size()));
    }
    for (const auto& asked : routing.asked)
      if (!routing.tables[asked.table].description.frozen) shards_.push_back(tell_shard(asked));
    upload_.send(routing.device);
  }

  /// For each rank and capture: the gradients of what its shards gave to this rank.
  [[gnu::cold]] ByteMessage pack() const {
    auto message = gradient_message(routing_, captures_, self_, 0);
    std::int64_t begin = 0;
    for (const auto& theirs : routing_.routes_of)
      for (std::size_t c = 0; c < captures_.size(); ++c)
        for (const auto r : theirs) {
          const auto vectors = own_vectors(captures_[c], r);
          if (routing_.stays(r, self_) || vectors == 0) continue;
          const auto dtype = routing_.gradient_dtype(routing_.routes[r]);
          block_at(message.send, begin, vectors, columns_of(r), dtype).copy_(packed(c, r));  // [vectors, columns]
          begin += own_gradient_bytes(routing_, captures_[c], r);
        }
    return message;
  }
  /// Finds what arrived, and what stays.
  [[gnu::cold]] void read(const at::Tensor& arrived) {
    std::int64_t begin = 0;
    for (std::size_t peer = 0; peer < routing_.routes_of.size(); ++peer)
      for (std::size_t c = 0; c < captures_.size(); ++c)
        for (std::size_t i = 0; i < mine().size(); ++i) {
          const auto r = mine()[i];
          const auto vectors = peer_vectors(routing_, captures_[c], self_, i, peer);
          if (vectors == 0) continue;
          if (routing_.stays(r, peer)) {
            blocks_[c][i][peer] = read_here(c, r);                                           // [vectors, columns]
            continue;
          }
          blocks_[c][i][peer] = block_at(arrived, begin, vectors, columns_of(r), routing_.gradient_dtype(routing_.routes[r]));
          begin += peer_gradient_bytes(routing_, captures_[c], self_, i, peer);
        }
  }
  /// Gradients of sums that this rank added up for its node.
  [[gnu::cold]] ByteMessage pack_node() const {
    auto message = node_gradient_message(routing_, captures_, self_);
    std::int64_t begin = 0;
    for (std::size_t peer = 0; peer < routing_.routes_of.size(); ++peer)
      for (std::size_t c = 0; c < captures_.size(); ++c)
        for_each_relay(routing_, peer, self_, [&](std::size_t asker, std::size_t r, std::size_t gateway) {
          const auto& block = blocks_[c][routing_.place[gateway]][asker];                    // [bags, columns]
          const auto bytes = node_gradient_bytes(routing_, captures_[c], asker, r, gateway);
          if (bytes == 0) return;
          block_at(message.send, begin, block.size(0), block.size(1), block.scalar_type()).copy_(block);
          begin += bytes;
        });
    return message;
  }
  [[gnu::cold]] void read_node(const at::Tensor& arrived) {
    std::int64_t begin = 0;
    for (std::size_t peer = 0; peer < routing_.routes_of.size(); ++peer)
      for (std::size_t c = 0; c < captures_.size(); ++c)
        for_each_relay(routing_, self_, peer, [&](std::size_t asker, std::size_t r, std::size_t) {
          const auto& bags = captures_[c].routed[routing_.place[r]][asker];
          const auto bytes = node_gradient_bytes(routing_, captures_[c], asker, r, r);
          if (bytes == 0) return;
          blocks_[c][routing_.place[r]][asker] =
              block_at(arrived, begin, bags.bags, columns_of(r), routing_.gradient_dtype(routing_.routes[r]));   // [bags, columns]
          begin += bytes;
        });
  }
  /// The distinct rows of every local shard that trains, with their gradients summed.
  [[gnu::cold]] std::vector<ShardGradients> sum() {
    std::vector<ShardGradients> sums;
    for (auto& shard : shards_) {
      const auto& table = routing_.tables[shard.asked->table];
      const auto number = compute_dtype(table.description.data_type);
      std::vector<at::Tensor> parts;                                                         // each [vectors, columns]
      for (std::size_t c = 0; c < captures_.size(); ++c)
        for (const auto i : shard.asked->routes)
          for (const auto& block : blocks_[c][i])
            if (block.defined() && reached_[c][slot_of(i)]) parts.push_back(block);
      const auto columns = table.shards[shard.asked->shard].box.columns();
      const auto empty = at::TensorOptions(number).device(routing_.device);
      const auto all = parts.empty() ? ops::zeros({0, columns}, empty) : parts.size() == 1 ? parts.front() : ops::cat(parts);
      ShardGradients one{shard.asked->table, shard.asked->shard,
                         {.rows = std::move(shard.row_sums.rows), .sums = shard.row_sums.sums.of(upload_, all, number)}};   // [U, columns]
      one.gradients.rows_there = upload_.integers(shard.row_sums.rows_there);                // [U]
      sums.push_back(std::move(one));
    }
    return sums;
  }

 private:
  static constexpr std::size_t nothing = static_cast<std::size_t>(-1);
  /// A request by which rows were given to this rank's ids.
  struct Told {
    bool rows = false;
    kernels::PickedSums sums;
  };
  struct Shard {
    const AskedShard* asked;
    RowSums row_sums;
  };

  const std::vector<std::size_t>& mine() const { return routing_.routes_of[self_]; }
  std::size_t slot_of(std::size_t i) const { return routing_.routes[mine()[i]].slot; }
  std::int64_t columns_of(std::size_t r) const { return routing_.shard_of(routing_.routes[r]).box.columns(); }

  /// Which gradients of this rank are those of a row that it was given.
  [[gnu::cold]] void tell_request(std::size_t c, std::size_t r) {
    auto& told = requests_.emplace_back();
    const auto& request = captures_[c].requests[r];
    const auto& divisors = captures_[c].divisors[routing_.routes[r].slot];
    told.rows = request.rows;
    if (!request.rows) return;
    if (captures_[c].by_rows[routing_.lookup_of(r)]) {
      told.sums = RowSums::picked(upload_, request.repeats, request.positions, {});
      return;
    }
    std::vector<std::int64_t> sources;
    std::vector<double> factors;
    const auto& bags = request.bags;
    for (std::int64_t b = 0; b < bags.bags; ++b)
      for (auto i = bags.offsets[b]; i < bags.offsets[b + 1]; ++i) {
        sources.push_back(b);
        if (!bags.weights && divisors.empty()) continue;
        const double divisor = divisors.empty() ? 1 : divisors[static_cast<std::size_t>(b)];
        factors.push_back(divisor == 0 ? 0 : (bags.weights ? bags.weights[i] : 1.0) / divisor);
      }
    told.sums = RowSums::picked(upload_, request.repeats, sources, factors);
  }
  /// The gradients that will reach a shard of this rank, in their fixed order: by pass, feature, rank, bag.
  [[gnu::cold]] Shard tell_shard(const AskedShard& asked) {
    std::vector<std::int64_t> rows, sources;
    std::vector<double> factors;
    std::int64_t begin = 0;                                  // of a block among all
    for (std::size_t c = 0; c < captures_.size(); ++c)
      for (const auto i : asked.routes) {
        if (!reached_[c][slot_of(i)]) continue;
        for (const auto& bags : captures_[c].routed[i]) {
          const auto count = bags.count();
          rows.insert(rows.end(), bags.ids, bags.ids + count);
          for (std::int64_t b = 0; b < bags.bags; ++b)
            for (auto id = bags.offsets[b] - bags.offsets[0]; id < bags.offsets[b + 1] - bags.offsets[0]; ++id)
              sources.push_back(begin + (bags.rows ? id : b));
          if (bags.weights && !bags.rows) {
            factors.resize(rows.size() - static_cast<std::size_t>(count), 1);
            factors.insert(factors.end(), bags.weights, bags.weights + count);
          }
          begin += bags.rows ? count : bags.bags;
        }
      }
    if (!factors.empty()) factors.resize(rows.size(), 1);
    return {&asked, RowSums::told(upload_, rows, sources, factors)};
  }
  /// The columns of a route in this rank's gradient of its slot [bags or ids, columns]; zeros where there is none.
  [[gnu::cold]] at::Tensor columns(std::size_t c, std::size_t r, std::int64_t vectors) const {
    const auto& route = routing_.routes[r];
    const auto& slot = routing_.slots[route.slot];
    const auto& box = routing_.shard_of(route).box;
    const auto& gradient = gradients_[c * routing_.slots.size() + route.slot];
    if (!gradient.defined())
      return ops::zeros({vectors, box.columns()}, at::TensorOptions(routing_.layout_of(route).dtype).device(routing_.device));
    return gradient.narrow(1, (captures_[c].by_slot[slot.lookup] ? 0 : slot.column) + box.column_begin, box.columns());
  }
  /// The gradient vectors of one route, [vectors, columns]: of its bags, divided for mean pooling, or of its rows.
  [[gnu::cold]] at::Tensor packed(std::size_t c, std::size_t r) const {
    const auto slot = routing_.routes[r].slot;
    const auto vectors = own_vectors(captures_[c], r);
    const auto gradient = columns(c, r, vectors);
    const auto& told = requests_[c * routing_.routes.size() + r];
    if (!gradients_[c * routing_.slots.size() + slot].defined()) return gradient;
    if (told.rows) return told.sums.of(upload_, gradient, gradient.scalar_type());                             // [rows, columns]
    const auto part = gradient.narrow(0, 0, vectors);                                        // [bags, columns]
    const auto divisors = divisors_[c * routing_.slots.size() + slot];
    return divisors == nothing ? part : part.div(upload_.reals(divisors).to(part.scalar_type()).unsqueeze(1));
  }
  /// Gradients of what stays on this rank.
  [[gnu::cold]] at::Tensor read_here(std::size_t c, std::size_t r) const {
    const auto& route = routing_.routes[r];
    const bool divides = divisors_[c * routing_.slots.size() + route.slot] != nothing;
    return divides || !routing_.has_all_rows(route) ? packed(c, r) : columns(c, r, own_vectors(captures_[c], r));
  }

  const Routing& routing_;
  std::span<const Capture> captures_;
  std::vector<std::vector<char>> reached_;                   // per capture and slot
  std::size_t self_;
  kernels::Upload upload_;
  std::vector<Told> requests_;                               // per capture and route
  std::vector<std::size_t> divisors_;                        // per capture and slot
  std::vector<at::Tensor> gradients_;                        // per capture and slot
  std::vector<Shard> shards_;
  std::vector<std::vector<std::vector<at::Tensor>>> blocks_; // per capture, route of this rank and rank: [vectors, columns]
};

/// Which slots the loss of this rank reached, [captures * slots] bytes.
[[gnu::cold]] inline at::Tensor pack_reached(const Routing& routing, std::span<const Capture> captures) {
  auto flags = ops::empty({static_cast<std::int64_t>(captures.size() * routing.slots.size())}, at::kByte);   // [captures * slots]
  auto* to = flags.mutable_data_ptr<std::uint8_t>();
  for (const auto& capture : captures) {
    const auto reached = reached_slots(capture, routing);
    to = std::copy(reached.begin(), reached.end(), to);
  }
  return flags;
}
[[gnu::cold]] inline std::vector<std::vector<char>> any_reached(const Routing& routing, std::size_t captures,
                                                                const std::vector<at::Tensor>& of_ranks) {
  std::vector<std::vector<char>> reached(captures, std::vector<char>(routing.slots.size()));
  for (const auto& flags : of_ranks) {
    const auto* from = flags.const_data_ptr<std::uint8_t>();
    for (auto& of_capture : reached)
      for (auto& one : of_capture) one = static_cast<char>(one | *from++);
  }
  return reached;
}

/// exchange_gradients and sum_gradients on a device.
template <class Topology>
[[gnu::cold]] std::vector<ShardGradients> device_gradients(Topology& topology, const Routing& routing, std::span<const Capture> captures) {
  std::vector<at::Tensor> reached{pack_reached(routing, captures)};
  if constexpr (Topology::is_distributed) reached = all_gather_v(topology, std::move(reached.front())).wait();
  DeviceGradients gradients(routing, captures, any_reached(routing, captures.size(), reached));
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    gradients.read({});
  } else {
    auto message = gradients.pack();
    gradients.read(all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait());
    if (routing.has_relays) {
      message = gradients.pack_node();
      gradients.read_node(all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait());
    }
  }
  return gradients.sum();
}

}  // namespace rookery::detail
