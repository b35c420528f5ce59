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

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/operators.hpp>
#include <rookery/sharding/device_gradients.hpp>
#include <rookery/sharding/device_sums.hpp>
#include <rookery/sharding/device_values.hpp>
#include <rookery/sharding/fused_step.hpp>
#include <rookery/sharding/gradient_exchange.hpp>
#include <rookery/sharding/lookup_exchange.hpp>
#include <rookery/sharding/replicas.hpp>
#include <rookery/sharding/routing.hpp>
#include <rookery/sparse/jagged_tensor.hpp>

namespace rookery {

namespace detail {

/// Pools rows [n, D] into bags with weights that may require grad [n] -> [B, D]; means divide by the sum of weights.
inline at::Tensor pool_rows(const at::Tensor& rows, const Bags& bags, const at::Tensor& weights, PoolingType pooling) {
  if (!rows.is_cpu()) return pool_device_rows(rows, bags, weights, pooling);
  auto bag_of = ops::empty({bags.count()}, at::kLong);                                       // [n]
  for (std::int64_t b = 0; b < bags.bags; ++b)
    std::fill(bag_of.mutable_data_ptr<std::int64_t>() + (bags.offsets[b] - bags.offsets[0]),
              bag_of.mutable_data_ptr<std::int64_t>() + (bags.offsets[b + 1] - bags.offsets[0]), b);
  const auto typed = weights.to(rows.scalar_type());                                         // [n]
  auto pooled = ops::zeros({bags.bags, rows.size(1)}, rows.options()).index_add(0, bag_of, rows.mul(typed.unsqueeze(1)));  // [B, D]
  if (pooling == PoolingType::sum) return pooled;
  const auto sums = ops::zeros({bags.bags}, rows.options()).index_add(0, bag_of, typed).unsqueeze(1);  // [B, 1]
  const auto empty = sums.eq(0);                                                             // [B, 1]
  return pooled.div(sums.masked_fill(empty, 1)).masked_fill(empty, 0);           // [B, D]
}

/// The rows of a sequence that `rows` [B] names, repeated ones too; gradients add up.
inline JaggedTensor select_rows(const JaggedTensor& sequence, const at::Tensor& rows) {
  const auto offsets = sequence.offsets(), host = rows.to(at::kCPU).contiguous();            // [own rows + 1], [B]
  const auto* offset = offsets.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> lengths, positions;
  for (std::int64_t b = 0; b < host.numel(); ++b) {
    const auto row = host.const_data_ptr<std::int64_t>()[b];
    lengths.push_back(offset[row + 1] - offset[row]);
    for (auto i = offset[row]; i < offset[row + 1]; ++i) positions.push_back(i);
  }
  const auto at = host_tensor(positions).to(sequence.values().device());                     // [N]
  return {sequence.values().index_select(0, at), host_tensor(lengths),
          sequence.is_weighted() ? sequence.weights().index_select(0, at) : at::Tensor{}};
}

}  // namespace detail

/// How many ids of a feature were left out because a table had no row for them.
struct BadIdCount {
  std::string feature, table;
  std::int64_t count = 0;
};

/// The lookups and captures of one placed model.
class TableRuntime {
 public:
  /// What a forward pass computes with, and what its step will need.
  struct Looked {
    std::vector<LookedUp> lookups;
    detail::Capture capture;
  };

  /// The lookups of a pass whose ids are on their way.
  template <class Topology> struct UnderWay {
    std::vector<KeyedJaggedTensor> completed;                // the inputs, where some lacked a feature that they may lack
    std::span<const KeyedJaggedTensor> inputs;               // these, or the caller's
    bool capturing = false;
    detail::Capture capture;
    detail::IdExchange<Topology> ids;
  };

  /// Checks the ids and begins to send them. `given` and `lookups` stay where they are until it is looked up.
  /// Ranks: all, in the same order.
  template <class Topology>
  void begin(Topology& topology, std::span<const KeyedJaggedTensor> given, bool capturing, UnderWay<Topology>& lookups) const;
  /// Goes on sending ids as far as it can be done before the values of other lookups. Ranks: all, in the same order.
  template <class Topology> void advance(Topology& topology, UnderWay<Topology>& lookups) const {
    if (!routing_.slots.empty()) lookups.ids.send_ids(topology, routing_);
  }
  /// Ends what was begun and will not be looked up; not on the way out of an error, whose ranks may never come.
  template <class Topology> void forget(Topology& topology, UnderWay<Topology>& lookups) const noexcept {
    if (!Topology::is_distributed || routing_.slots.empty() || std::uncaught_exceptions() > 0) return;
    try {
      lookups.ids.receive(topology, routing_, lookups.capture);
    } catch (const std::exception&) {                        // whoever makes the next collective is told
    }
  }
  /// Looks everything up in one exchange. When `capturing` the values require grad. Ranks: all, in the same order.
  template <class Topology> Looked look_up(Topology& topology, UnderWay<Topology>& lookups);
  /// Both.
  template <class Topology> Looked look_up(Topology& topology, std::span<const KeyedJaggedTensor> given, bool capturing) {
    UnderWay<Topology> lookups;
    begin(topology, given, capturing, lookups);
    return look_up(topology, lookups);
  }

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

  /// Ids left out so far, of each feature and table that had any.
  std::vector<BadIdCount> bad_ids() const {
    std::vector<BadIdCount> counts;
    for (std::size_t s = 0; s < bad_.size(); ++s)
      if (bad_[s] > 0) counts.push_back({routing_.slots[s].feature, routing_.tables[routing_.slots[s].table].description.name, bad_[s]});
    return counts;
  }

  /// Calls `fn(ids)` with what the captured passes asked of a local shard of managed collision.
  template <class Fn> void for_each_id(std::size_t table, std::size_t shard, Fn&& fn) const {
    const auto& mine = routing_.routes_of[static_cast<std::size_t>(routing_.tables[table].shards[shard].rank)];
    for (const auto& capture : captures_)
      for (std::size_t i = 0; i < capture.raw.size(); ++i) {
        const auto& route = routing_.routes[mine[i]];
        if (routing_.slots[route.slot].table != table || route.shard != shard) continue;
        for (const auto& bags : capture.raw[i]) fn(std::span(bags.ids, static_cast<std::size_t>(bags.count())));
      }
  }

  /// First phase of a step: gradients to the ranks whose rows they are of.
  template <class Topology> std::vector<detail::ReceivedGradients> exchange(Topology& topology) const {
    if (routing_.slots.empty()) return {};
    if (routing_.on_device()) return {};                     // device_gradients does both
    return detail::exchange_gradients(topology, routing_, captures_);
  }
  /// Second phase: the distinct rows of every local shard with their summed gradients; `fusing` leaves out those that can be fused.
  template <class Topology>
  std::vector<detail::ShardGradients> sums(Topology& topology, std::span<const detail::ReceivedGradients> received, bool fusing) const {
    if (routing_.slots.empty()) return {};
    if constexpr (concepts::may_have_device<Topology>()) {
      if (routing_.on_device()) [[unlikely]] {
        auto sums = detail::device_gradients(topology, routing_, captures_);
        if constexpr (Topology::is_distributed) detail::sum_device_replicas(topology, routing_, sums);
        return sums;
      }
    }
    auto sums = detail::sum_gradients(routing_, static_cast<std::size_t>(topology.rank()), captures_, received, fusing);
    if constexpr (Topology::is_distributed) detail::sum_replicas(topology, routing_, captures_, sums);
    return sums;
  }
  /// Those that can be fused, but for their tasks.
  std::vector<detail::FusedShard> fused(std::span<const detail::ReceivedGradients> received) const {
    if (routing_.slots.empty()) return {};
    return detail::fused_shards(routing_, static_cast<std::size_t>(routing_.self), captures_, received);
  }

 private:
  /// The inputs, with features that they lack and may lack as bags without ids; empty where none may be lacking.
  std::vector<KeyedJaggedTensor> completed(std::span<const KeyedJaggedTensor> given) const {
    const auto refuses = [](const detail::LookupLayout& layout) { return layout.missing_features == MissingFeatures::refuse; };
    if (std::all_of(routing_.lookups.begin(), routing_.lookups.end(), refuses)) return {};
    std::vector<KeyedJaggedTensor> inputs(given.begin(), given.end());
    for (std::size_t l = 0; l < inputs.size(); ++l) {
      if (refuses(routing_.lookups[l])) continue;
      std::vector<std::string> wanted;
      for (const auto& slot : routing_.slots)
        if (slot.lookup == l) wanted.push_back(slot.feature);
      inputs[l] = inputs[l].with_keys(wanted);
    }
    return inputs;
  }
  /// The values of all slots as leaves of the model's graph.
  Looked as_leaves(std::span<const KeyedJaggedTensor> inputs, bool capturing, detail::Capture capture,
                   std::span<const detail::SlotOutput> outputs) const;

  /// Ids in each bag [B].
  static at::Tensor lengths_of(const detail::Bags& bags) {
    auto lengths = ops::empty({bags.bags}, at::kLong);                                       // [B]
    auto* to = lengths.mutable_data_ptr<std::int64_t>();
    for (std::int64_t b = 0; b < bags.bags; ++b) to[b] = bags.offsets[b + 1] - bags.offsets[b];
    return lengths;
  }

  detail::Routing routing_;
  std::vector<detail::Capture> captures_;
  std::vector<std::int64_t> bad_;            // per slot: ids left out
};

template <class Topology>
void TableRuntime::begin(Topology& topology, std::span<const KeyedJaggedTensor> given, bool capturing, UnderWay<Topology>& lookups) const {
  const at::NoGradGuard no_grad;
  lookups.completed = completed(given);
  lookups.inputs = lookups.completed.empty() ? given : std::span<const KeyedJaggedTensor>(lookups.completed);
  lookups.capturing = capturing;
  lookups.capture = detail::own_bags(routing_, lookups.inputs, capturing);
  if (!routing_.slots.empty()) lookups.ids.send_counts(topology, routing_, lookups.capture, capturing);
}

template <class Topology> auto TableRuntime::look_up(Topology& topology, UnderWay<Topology>& lookups) -> Looked {
  std::vector<detail::SlotOutput> outputs;
  auto& capture = lookups.capture;
  {
    const at::NoGradGuard no_grad;
    bad_.resize(capture.bad.size());
    std::transform(bad_.begin(), bad_.end(), capture.bad.begin(), bad_.begin(), std::plus<>());
    if (!routing_.slots.empty()) {
      lookups.ids.receive(topology, routing_, capture);
      if constexpr (concepts::may_have_device<Topology>())
        if (routing_.on_device()) [[unlikely]] outputs = detail::exchange_device_values(topology, routing_, capture);
      if (!routing_.on_device()) {
        outputs = detail::exchange_values(topology, routing_, capture);
        detail::divide_means(routing_, capture, outputs);
      }
    }
  }
  return as_leaves(lookups.inputs, lookups.capturing, std::move(capture), outputs);
}

inline auto TableRuntime::as_leaves(std::span<const KeyedJaggedTensor> inputs, bool capturing, detail::Capture capture,
                                    std::span<const detail::SlotOutput> outputs) const -> Looked {
  capture.leaves.resize(routing_.lookups.size());
  capture.slot_leaves.resize(routing_.slots.size());
  std::vector<LookedUp> lookups(routing_.lookups.size());
  std::vector<std::vector<at::Tensor>> parts(lookups.size());
  for (std::size_t s = 0; s < routing_.slots.size(); ++s) {
    const auto& slot = routing_.slots[s];
    if (!capture.by_slot[slot.lookup]) {
      capture.leaves[slot.lookup] = outputs[s].tensor;                                       // [B, width]
      continue;
    }
    const auto& values = capture.slot_leaves[s] = outputs[s].tensor.set_requires_grad(capturing);   // [bags or ids, D]
    const auto& input = inputs[slot.lookup];
    const auto f = input.index_of(slot.feature);
    const auto feature = input.feature(f);
    auto weights = feature.is_weighted() ? feature.weights() : at::Tensor{};                 // [ids]
    if (weights.defined() && capture.kept[s].defined()) weights = weights.index_select(0, capture.kept[s].to(weights.device()));
    if (weights.defined() && weights.device() != values.device()) weights = weights.to(values.device());
    if (routing_.lookups[slot.lookup].is_sequence) {
      JaggedTensor sequence(values, lengths_of(capture.own[s]), weights);                    // [ids, D]
      if (input.has_inverse_indices()) sequence = detail::select_rows(sequence, input.inverse_indices()[static_cast<std::int64_t>(f)]);
      lookups[slot.lookup].sequences.push_back(std::move(sequence));
      continue;
    }
    auto pooled = values;                                                                    // [bags, D]
    if (capture.by_rows[slot.lookup])
      pooled = detail::pool_rows(values, capture.own[s], weights, routing_.tables[slot.table].description.pooling);
    if (input.variable_stride_per_key())                                                     // each row of the batch gets its bag's
      pooled = pooled.index_select(0, input.inverse_indices()[static_cast<std::int64_t>(f)].to(pooled.device()));   // [B, D]
    parts[slot.lookup].push_back(std::move(pooled));
  }
  for (std::size_t l = 0; l < lookups.size(); ++l) {
    lookups[l].columns = routing_.lookups[l].columns;
    if (routing_.lookups[l].is_sequence) continue;
    if (capture.by_slot[l] && !parts[l].empty()) {
      lookups[l].pooled = ops::cat(parts[l], 1);                                             // [B, width]
      continue;
    }
    auto& leaf = capture.leaves[l];
    if (!leaf.defined())                                                                     // a collection without tables
      leaf = ops::zeros({capture.rows[l], 0}, at::TensorOptions(routing_.lookups[l].dtype).device(routing_.device));
    lookups[l].pooled = leaf.set_requires_grad(capturing);                                   // [B, width]
  }
  return {std::move(lookups), std::move(capture)};
}

}  // namespace rookery
