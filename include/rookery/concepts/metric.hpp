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

template <class M>
concept Metric = HasMetricUpdate<M> && HasMetricValue<M> && Mergeable<M>;

}  // namespace rookery::concepts
