// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableRuntime: the placed tables of a model at work. Lookups become leaves that the model computes with; what a step needs of
// each forward pass is captured.
//
// Capture is a leaf: pooled values given to the model require grad, backward fills their gradient, and step() reads it. There
// is no autograd node of ours and no collective inside backward. Where per-sample weights require grad, rows come back unpooled
// and are pooled by LibTorch's own operators, so that the weights get their gradient under every plan.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_add.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/sharding/gradient_exchange.hpp>
#include <rookery/sharding/lookup_exchange.hpp>
#include <rookery/sharding/routing.hpp>
#include <rookery/sparse/keyed_tensor.hpp>

namespace rookery {

namespace detail {

/// Pools rows [n, D] into bags with weights that may require grad [n] -> [B, D]; means divide by the sum of weights.
inline at::Tensor pool_rows(const at::Tensor& rows, const Bags& bags, const at::Tensor& weights, PoolingType pooling) {
  auto bag_of = at::empty({bags.count()}, at::kLong);                                        // [n]
  for (std::int64_t b = 0; b < bags.bags; ++b)
    std::fill(bag_of.mutable_data_ptr<std::int64_t>() + (bags.offsets[b] - bags.offsets[0]),
              bag_of.mutable_data_ptr<std::int64_t>() + (bags.offsets[b + 1] - bags.offsets[0]), b);
  const auto typed = weights.to(rows.scalar_type());                                         // [n]
  auto pooled = at::index_add(at::zeros({bags.bags, rows.size(1)}, rows.options()), 0, bag_of, rows.mul(typed.unsqueeze(1)));   // [B, D]
  if (pooling == PoolingType::sum) return pooled;
  const auto sums = at::index_add(at::zeros({bags.bags}, rows.options()), 0, bag_of, typed).unsqueeze(1);   // [B, 1]
  const auto empty = sums.eq(0);                                                             // [B, 1]
  return at::where(empty, at::zeros({}, rows.options()), pooled.div(sums.masked_fill(empty, 1)));           // [B, D]
}

}  // namespace detail

/// The lookups and captures of one placed model.
class TableRuntime {
 public:
  /// What a forward pass computes with, and what its step will need.
  struct Looked {
    std::vector<KeyedTensor> values;         // per lookup, [B, sum(D)]
    detail::Capture capture;
  };

  /// Looks everything up in one exchange. With `capturing` the values require grad. Ranks: all, in the same order.
  template <class Topology> Looked look_up(Topology& topology, std::span<const KeyedJaggedTensor> inputs, bool capturing) const;

  /// Remembers a pass until `clear`. Errors: Error when a step has not come for `most_captures` passes.
  void keep(detail::Capture capture) {
    check<Error>(captures_.size() < most_captures, most_captures,
                 " forward passes were captured without a step; call train(false) or predict() where none is to come");
    captures_.push_back(std::move(capture));
  }
  static constexpr std::size_t most_captures = 10'000;

  const detail::Routing& routing() const { return routing_; }
  detail::Routing& routing() { return routing_; }
  std::span<const detail::Capture> captures() const { return captures_; }
  void clear() { captures_.clear(); }

  /// First and second phase of a step: the distinct rows of every local shard with their summed gradients.
  template <class Topology> std::vector<detail::ShardGradients> gradients(Topology& topology) const {
    const auto received = detail::exchange_gradients(topology, routing_, captures_);
    return detail::sum_gradients(routing_, static_cast<std::size_t>(topology.rank()), captures_, received);
  }

 private:
  /// The values of all slots as leaves of the model's graph.
  Looked as_leaves(std::span<const KeyedJaggedTensor> inputs, bool capturing, detail::Capture capture,
                   std::span<const detail::SlotOutput> outputs) const;

  detail::Routing routing_;
  std::vector<detail::Capture> captures_;
};

template <class Topology>
auto TableRuntime::look_up(Topology& topology, std::span<const KeyedJaggedTensor> inputs, bool capturing) const -> Looked {
  std::vector<detail::SlotOutput> outputs;
  detail::Capture capture;
  {
    const at::NoGradGuard no_grad;
    capture = detail::own_bags(routing_, inputs, capturing);
    if (!routing_.slots.empty()) {
      detail::route_ids(topology, routing_, capture, capturing);
      outputs = detail::exchange_values(topology, routing_, capture);
      detail::divide_means(routing_, capture, outputs);
    }
  }
  return as_leaves(inputs, capturing, std::move(capture), outputs);
}

inline auto TableRuntime::as_leaves(std::span<const KeyedJaggedTensor> inputs, bool capturing, detail::Capture capture,
                                    std::span<const detail::SlotOutput> outputs) const -> Looked {
  capture.leaves.resize(routing_.lookups.size());
  capture.row_leaves.resize(routing_.slots.size());
  std::vector<std::vector<at::Tensor>> pooled(routing_.lookups.size());
  for (std::size_t s = 0; s < routing_.slots.size(); ++s) {
    const auto& slot = routing_.slots[s];
    if (!capture.by_rows[slot.lookup]) {
      capture.leaves[slot.lookup] = outputs[s].tensor;                                       // [B, width]
      continue;
    }
    capture.row_leaves[s] = outputs[s].tensor.set_requires_grad(capturing);                  // [n, D]
    const auto& input = inputs[slot.lookup];
    pooled[slot.lookup].push_back(detail::pool_rows(outputs[s].tensor, capture.own[s],
                                                    input.feature(input.index_of(slot.feature)).weights(),
                                                    routing_.tables[slot.table].description.pooling));
  }
  std::vector<KeyedTensor> values;
  for (std::size_t l = 0; l < routing_.lookups.size(); ++l) {
    auto& leaf = capture.leaves[l];
    if (capture.by_rows[l]) {
      values.emplace_back(routing_.lookups[l].columns, at::cat(pooled[l], 1));               // [B, width]
    } else {
      if (!leaf.defined()) leaf = at::zeros({capture.rows[l], 0}, routing_.lookups[l].dtype);   // a collection without tables
      leaf.set_requires_grad(capturing);
      values.emplace_back(routing_.lookups[l].columns, leaf);                                // [B, width]
    }
  }
  return {std::move(values), std::move(capture)};
}

}  // namespace rookery
