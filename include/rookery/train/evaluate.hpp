// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// evaluate: metrics of a placed model over batches, merged over ranks.
//
// Answers to the-algorithm-ml's only_evaluate.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>

#include <rookery/metrics/merge.hpp>

namespace rookery {

namespace detail {

template <class Batch> at::Tensor weights_if_any(const Batch& batch) {
  if constexpr (requires { batch.weights; }) return batch.weights;
  else return {};
}
template <class Batch> at::Tensor groups_if_any(const Batch& batch) {
  if constexpr (requires { batch.groups; }) return batch.groups;
  else return {};
}

}  // namespace detail

/// Feeds `metrics` with what the model predicts for every batch of `range`, and gives them merged over ranks. Nothing is captured and
/// no weight changes, whether the model is training or not.
///
/// A batch has `labels`, and `weights` and `groups` where there are any; an output has `logits`, or `predictions` that are taken as
/// they are.
/// Errors:  those of the model and of the metrics.
/// Cost:    one forward pass a batch, one all-gather in the end.
/// Ranks:   all, in the same order, with the same number of batches.
template <class Model, class Range, class Metrics> Metrics evaluate(Model& model, Range&& range, Metrics metrics) {
  for (auto& batch : range) {
    const auto output = model.predict(batch);
    if constexpr (requires { output.logits; })
      metrics.update_logits(output.logits, batch.labels, detail::weights_if_any(batch), detail::groups_if_any(batch));
    else metrics.update(output.predictions, batch.labels, detail::weights_if_any(batch), detail::groups_if_any(batch));
  }
  return merged(metrics, model.topology());
}

}  // namespace rookery
