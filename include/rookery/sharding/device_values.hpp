// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The values of a step where tables are on a device: looked up, sent and put together there, in the order of lookup_exchange.hpp.
//
// What is asked for is on the host, and goes to the device in one copy a pass; nothing comes back. A route is looked up once for all ranks
// that ask it, and its rows are bags of one id.
// Answers to torchrec/distributed compute and output_dist.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/device/lookup.hpp>
#include <rookery/kernels/device/upload.hpp>
#include <rookery/sharding/lookup_exchange.hpp>

namespace rookery::detail {

/// Vectors [n, columns] of a dtype in a message of bytes, where they begin.
[[gnu::cold]] inline at::Tensor block_at(const at::Tensor& message, std::int64_t begin, std::int64_t vectors, std::int64_t columns,
                           at::ScalarType dtype) {
  const auto bytes = vectors * columns * static_cast<std::int64_t>(c10::elementSize(dtype));
  return message.narrow(0, begin, bytes).view(dtype).view({vectors, columns});               // [n, columns]
}

/// Where the bytes of each rank begin.
inline std::vector<std::int64_t> begins_of(const Counts& bytes) {
  std::vector<std::int64_t> begins{0};
  for (const auto one : bytes) begins.push_back(begins.back() + one);
  return begins;
}

/// Divisors as a device divides by them: by infinity where a bag without divisor is to give zeros.
[[gnu::cold]] inline std::vector<double> divisors_there(const std::vector<double>& divisors) {
  auto there = divisors;
  for (double& one : there)
    if (one == 0) one = std::numeric_limits<double>::infinity();
  return there;
}

/// pool_rows on a device: no sum is taken by atomics there.
[[gnu::cold]] inline at::Tensor pool_device_rows(const at::Tensor& rows, const Bags& bags, const at::Tensor& weights, PoolingType pooling) {
  const auto typed = weights.to(rows.scalar_type()).unsqueeze(1);                            // [n, 1]
  if (rows.size(0) == 0) return rows.mul(typed).sum(0, /*keepdim=*/true).expand({bags.bags, rows.size(1)});   // [B, D] zeros
  std::vector<std::int64_t> from_zero(bags.offsets, bags.offsets + bags.bags + 1);
  for (auto& offset : from_zero) offset -= bags.offsets[0];
  const auto offsets = host_tensor(from_zero).to(rows.device());                             // [B + 1]
  const auto pooled = ops::segment_sums(rows.mul(typed), offsets);                           // [B, D]
  if (pooling == PoolingType::sum) return pooled;
  const auto sums = ops::segment_sums(typed, offsets);                                       // [B, 1]
  const auto empty = sums.eq(0);                                                             // [B, 1]
  return pooled.div(sums.masked_fill(empty, 1)).masked_fill(empty, 0);                       // [B, D]
}

/// One pass on a device.
class DeviceValues {
 public:
  /// Tells the device what is asked for, and looks up what this rank's shards have.
  [[gnu::cold]] DeviceValues(const Routing& routing, const Capture& capture)
      : routing_(routing), capture_(capture), self_(static_cast<std::size_t>(routing.self)) {
    std::vector<kernels::PickedSums> asked;                                                  // per route of this rank
    for (std::size_t i = 0; i < mine().size(); ++i) asked.push_back(tell_asked(i));
    for (std::size_t r = 0; r < routing.routes.size(); ++r) tell_request(r);
    for (std::size_t s = 0; s < routing.slots.size(); ++s)
      divisors_.push_back(divides(s) ? upload_.add(divisors_there(capture.divisors[s])) : 0);
    upload_.send(routing.device);
    for (std::size_t i = 0; i < mine().size(); ++i) {
      const auto& weight = routing.shard_of(routing.routes[mine()[i]]).local->storage.weight();   // [rows, columns]
      values_.push_back(asked[i].of(upload_, weight, compute_dtype(weight.scalar_type())));   // [vectors, columns]
    }
  }

  /// What goes to the other ranks of the node, to be added up there.
  [[gnu::cold]] ByteMessage pack_node_sums() const {
    auto message = node_sum_message(routing_, capture_, self_);
    std::int64_t begin = 0;
    for (std::size_t peer = 0; peer < routing_.routes_of.size(); ++peer)
      for_each_relay(routing_, self_, peer, [&](std::size_t asker, std::size_t r, std::size_t) {
        if (capture_.routed[routing_.place[r]][asker].rows) return;
        write(message.send, begin, of_rank(routing_.place[r], asker), routing_.value_dtype(routing_.routes[r], false));
        begin += node_sum_bytes(routing_, capture_, asker, r, r);
      });
    return message;
  }
  /// Adds what came from the other ranks of the node to what this one gives for them.
  [[gnu::cold]] void add_node_sums(const at::Tensor& received) {
    std::int64_t begin = 0;
    for (std::size_t peer = 0; peer < routing_.routes_of.size(); ++peer)
      for_each_relay(routing_, peer, self_, [&](std::size_t asker, std::size_t r, std::size_t gateway) {
        const auto i = routing_.place[gateway];
        if (capture_.routed[i][asker].rows) return;
        auto sum = of_rank(i, asker);                                                        // [bags, columns]
        sum.add_(block_at(received, begin, sum.size(0), sum.size(1), routing_.value_dtype(routing_.routes[r], false)));
        begin += node_sum_bytes(routing_, capture_, asker, r, gateway);
      });
  }
  /// What all ranks asked of this one.
  [[gnu::cold]] ByteMessage pack() const {
    auto message = value_message(routing_, capture_, self_);
    std::int64_t begin = 0;
    for (std::size_t peer = 0; peer < routing_.routes_of.size(); ++peer)
      for (std::size_t i = 0; i < mine().size(); ++i) {
        if (routing_.stays(mine()[i], peer) || peer_vectors(routing_, capture_, self_, i, peer) == 0) continue;
        const auto dtype = routing_.value_dtype(routing_.routes[mine()[i]], capture_.routed[i][peer].rows);
        write(message.send, begin, of_rank(i, peer), dtype);
        begin += peer_value_bytes(routing_, capture_, self_, i, peer);
      }
    return message;
  }
  /// Adds up what came back and what stays, in route order, and divides means.
  [[gnu::cold]] std::vector<SlotOutput> outputs(const at::Tensor& received, const Counts& bytes_in) const {
    auto outputs = empty_outputs(routing_, capture_);
    auto begins = begins_of(bytes_in);
    for (std::size_t r = 0; r < routing_.routes.size(); ++r) {
      const auto& route = routing_.routes[r];
      const auto& box = routing_.shard_of(route).box;
      const auto& output = outputs[route.slot];
      const auto columns = output.tensor.narrow(1, output.column + box.column_begin, box.columns());   // [bags or ids, columns]
      if (routing_.stays(r, self_)) {
        const auto values = of_rank(routing_.place[r], self_);                               // [vectors, columns]
        if (routing_.has_all_rows(route)) columns.copy_(values);
        else add(r, values, columns);
        continue;
      }
      auto& begin = begins[static_cast<std::size_t>(routing_.shard_of(route).rank)];
      const auto& request = capture_.requests[r];
      add(r, block_at(received, begin, request.vectors, box.columns(), routing_.value_dtype(route, request.rows)), columns);
      begin += own_value_bytes(routing_, capture_, r);
    }
    for (std::size_t s = 0; s < outputs.size(); ++s) {
      if (!divides(s)) continue;
      const auto dim = routing_.tables[routing_.slots[s].table].description.embedding_dim;
      const auto divisors = upload_.reals(divisors_[s]).to(outputs[s].tensor.scalar_type()).unsqueeze(1);   // [bags, 1]
      outputs[s].tensor.narrow(1, outputs[s].column, dim).div_(divisors);                    // [bags, D]
    }
    return outputs;
  }

 private:
  const std::vector<std::size_t>& mine() const { return routing_.routes_of[self_]; }
  bool divides(std::size_t s) const { return !capture_.divisors[s].empty() && !capture_.by_rows[routing_.slots[s].lookup]; }

  /// The ids of all ranks that ask a route of this rank.
  [[gnu::cold]] kernels::PickedSums tell_asked(std::size_t i) {
    std::vector<std::int64_t> ids, offsets{0};
    std::vector<double> factors;
    auto& begins = begins_.emplace_back();
    for (const auto& bags : capture_.routed[i]) {
      begins.push_back(static_cast<std::int64_t>(offsets.size()) - 1);
      const auto base = static_cast<std::int64_t>(ids.size());
      ids.insert(ids.end(), bags.ids, bags.ids + bags.count());
      for (std::int64_t v = 1; bags.rows && v <= bags.count(); ++v) offsets.push_back(base + v);
      for (std::int64_t b = 1; !bags.rows && b <= bags.bags; ++b) offsets.push_back(base + bags.offsets[b] - bags.offsets[0]);
      if (!bags.weights || bags.rows) continue;
      factors.resize(static_cast<std::size_t>(base), 1);
      factors.insert(factors.end(), bags.weights, bags.weights + bags.count());
    }
    begins.push_back(static_cast<std::int64_t>(offsets.size()) - 1);
    if (!factors.empty()) factors.resize(ids.size(), 1);
    return kernels::PickedSums::told(upload_, ids, factors, offsets);
  }
  /// Which of the rows that a route gives each id of this rank has.
  [[gnu::cold]] void tell_request(std::size_t r) {
    auto& told = requests_.emplace_back();
    const auto& request = capture_.requests[r];
    if (!request.rows) return;
    const auto& bags = request.bags;
    const auto ids = std::span(bags.ids, static_cast<std::size_t>(bags.count()));
    if (capture_.by_rows[routing_.lookup_of(r)]) {
      told.positions = upload_.add(request.positions);
      told.sums.ids = upload_.add(ids);
    } else {
      told.sums = kernels::PickedSums::told(upload_, ids, bags.weights ? std::span(bags.weights, ids.size()) : std::span<const double>{},
                                            std::span(bags.offsets, static_cast<std::size_t>(bags.bags) + 1));
    }
  }
  /// What this rank's route with number `i` has for a rank.
  [[gnu::cold]] at::Tensor of_rank(std::size_t i, std::size_t rank) const {
    return values_[i].narrow(0, begins_[i][rank], begins_[i][rank + 1] - begins_[i][rank]);  // [vectors, columns]
  }
  [[gnu::cold]] static void write(const at::Tensor& message, std::int64_t begin, const at::Tensor& values, at::ScalarType dtype) {
    block_at(message, begin, values.size(0), values.size(1), dtype).copy_(values);           // [vectors, columns]
  }
  /// Adds the vectors of a route to its columns of the output.
  [[gnu::cold]] void add(std::size_t r, const at::Tensor& vectors, const at::Tensor& columns) const {
    const auto& told = requests_[r];
    if (!capture_.requests[r].rows) {
      if (vectors.size(0) > 0) columns.add_(vectors.to(columns.scalar_type()));              // [bags, columns]
    } else if (capture_.by_rows[routing_.lookup_of(r)]) {
      const auto rows = vectors.index_select(0, upload_.integers(told.sums.ids));            // [ids here, columns]
      columns.index_copy_(0, upload_.integers(told.positions), rows.to(columns.scalar_type()));
    } else {
      columns.add_(told.sums.of(upload_, vectors, columns.scalar_type()));                   // [bags, columns]
    }
  }

  /// A request of this rank.
  struct Told {
    std::size_t positions = 0;
    kernels::PickedSums sums;
  };

  const Routing& routing_;
  const Capture& capture_;
  std::size_t self_;
  kernels::Upload upload_;
  std::vector<std::vector<std::int64_t>> begins_;            // per route of this rank, per rank: its first vector
  std::vector<Told> requests_;                               // per route
  std::vector<std::size_t> divisors_;                        // per slot
  std::vector<at::Tensor> values_;                           // per route of this rank: what ranks asked for [vectors, columns]
};

/// exchange_values and divide_means on a device.
template <class Topology>
[[gnu::cold]] std::vector<SlotOutput> exchange_device_values(Topology& topology, const Routing& routing, const Capture& capture) {
  DeviceValues values(routing, capture);
  if constexpr (!Topology::is_distributed) {
    (void)topology;
    return values.outputs({}, {});
  } else {
    if (routing.has_relays) {
      auto message = values.pack_node_sums();
      values.add_node_sums(all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait());
    }
    auto message = values.pack();
    return values.outputs(all_to_all_v(topology, std::move(message.send), message.bytes_out, message.bytes_in).wait(), message.bytes_in);
  }
}

}  // namespace rookery::detail
