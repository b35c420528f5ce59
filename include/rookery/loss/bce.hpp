// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Bce: binary cross entropy of logits, weighted by row.
//
// Answers to the-algorithm-ml core/losses.py build_loss and torch.nn.BCEWithLogitsLoss.  Include cost: tensor.

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/loss/rows.hpp>

namespace rookery {

/// -w (y log s(x) + (1 - y) log(1 - s(x))), in natural logarithms, of `output.logits` against `batch.labels`. Rows are weighted
/// by `batch.weights` where the batch has them and they are defined.
///
/// Shapes:  logits and labels the same, [B] or [B, 1]; weights as they, or [B] -> [].
/// Errors:  ShapeError when they differ; DataError for a label outside [0, 1] or NaN, and for a weight that is negative or not finite.
///          Labels and weights on another device than the host are not looked at: that would wait for it.
/// Cost:    one pass over the logits, one over the labels, one over the weights.
struct Bce {
  DivideBy divide_by = DivideBy::rows;

  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    const auto x = detail::logits_of_output(output);                                         // [B]
    const auto given = detail::labels_of_batch(batch);                                       // [B]
    check<ShapeError>(x.sizes() == given.sizes(), "Bce: logits have shape ", x.sizes(), " and labels ", given.sizes());
    const auto weights = detail::weights_of("Bce", batch, x.scalar_type());                  // [B] or undefined
    const auto labels = given.to(x.scalar_type());                                           // [B]
    detail::check_probabilities("Bce", labels);
    return ops::binary_cross_entropy_with_logits(x, labels, weights, {}, at::Reduction::Sum);  // []
  }

  template <class Batch> at::Tensor normaliser(const Batch& batch) const { return detail::divisor("Bce", batch, divide_by); }
};

}  // namespace rookery
