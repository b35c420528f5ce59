// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Metric: one number about predictions, accumulated over batches and merged over ranks.
//
// The state, not the number, is what ranks exchange: `pack` writes it as float64 numbers, `merge` adds such a state, and so the
// value over ranks is that of one process which saw every row.  Answers to torchmetrics' update / compute / sync and to
// torchrec/metrics/rec_metric.py.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <concepts>
#include <string_view>

namespace rookery::concepts {

/// State that can be emptied, written as [n] float64 on the host, and added to another of its kind. Two laws: merging the parts of
/// any split, in order, gives the state of the whole; merging an empty state changes nothing.
template <class S>
concept Mergeable = std::copyable<S> && requires(S& state, const S& constant, const at::Tensor& packed) {
  state.reset();
  { constant.pack() } -> std::same_as<at::Tensor>;                                 // [n] float64
  state.merge(packed);
};

/// Takes a batch: predictions, labels and weights, each [N]. Rows without weights carry the weight 1.
template <class M>
concept HasMetricUpdate = requires(M& metric, const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights) {
  metric.update(predictions, labels, weights);
};

/// Says what it is called and how it stands; NaN while there is nothing to say.
template <class M>
concept HasMetricValue = requires(const M& metric) {
  { metric.name() } -> std::convertible_to<std::string_view>;
  { metric.value() } -> std::same_as<double>;
};

/// Says how each of several things stands: a range of values with a `name` and a `value` each.
template <class M>
concept HasMetricValues = requires(const M& metric) {
  { metric.values().begin()->name } -> std::convertible_to<std::string_view>;
  { metric.values().begin()->value } -> std::convertible_to<double>;
};

/// One of the two.
template <class M>
concept Reports = HasMetricValue<M> || HasMetricValues<M>;

template <class M>
concept Metric = HasMetricUpdate<M> && HasMetricValue<M> && Mergeable<M>;

/// A metric, or what stands for several and is used as one: a suite, or a wrapper that keeps a metric for each group or task.
template <class M>
concept Measure = HasMetricUpdate<M> && Reports<M> && Mergeable<M>;

}  // namespace rookery::concepts
