// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// evaluate: metrics of a placed model over batches, merged over ranks.
//
// Answers to the-algorithm-ml's only_evaluate.  Include cost: tensor.

#include <utility>

#include <rookery/metrics/merge.hpp>

namespace rookery {

/// Feeds `metrics` with the model's logits for every batch of `range`, and gives them merged over ranks. Nothing is captured and no
/// weight changes, whether the model is training or not.
///
/// Errors:  those of the model and of the metrics.
/// Cost:    one forward pass a batch, one all-gather in the end.
/// Ranks:   all, in the same order, with the same number of batches.
template <class Model, class Range, class Metrics> Metrics evaluate(Model& model, Range&& range, Metrics metrics) {
  for (auto& batch : range) metrics.update_logits(model.predict(batch).logits, batch.labels, batch.weights);
  return merged(metrics, model.topology());
}

}  // namespace rookery
