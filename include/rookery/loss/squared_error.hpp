// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// SquaredError: how far predicted numbers are from labels, squared, weighted by row.  Answers to torch.nn.MSELoss.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <rookery/core/error.hpp>
#include <rookery/loss/rows.hpp>

namespace rookery {

/// w (x - y)^2 of `output.predictions` against `batch.labels`. Rows are weighted by `batch.weights` where the batch has them and they
/// are defined.
///
/// Shapes:  predictions and labels the same, [B] or [B, 1]; weights as they, or [B] -> [].
/// Errors:  ShapeError when they differ; DataError for a label that is not finite, and for a weight that is negative or not finite. Labels
///          and weights on another device than the host are not looked at: that would wait for it.
struct SquaredError {
  DivideBy divide_by = DivideBy::rows;

  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    const auto& x = output.predictions;                                                      // [B]
    const auto labels = detail::labels_of_batch(batch);                                      // [B]
    check<ShapeError>(x.sizes() == labels.sizes(), "SquaredError: predictions have shape ", x.sizes(), " and labels ", labels.sizes());
    const auto weights = detail::weights_of("SquaredError", batch, x.scalar_type());         // [B] or undefined
    const auto wanted = labels.to(x.scalar_type());                                          // [B]
    detail::check_finite("SquaredError", wanted);
    const auto squares = x.sub(wanted).square();                                             // [B]
    return (weights.defined() ? squares.mul(weights) : squares).sum();                       // []
  }

  template <class Batch> at::Tensor normaliser(const Batch& batch) const { return detail::divisor("SquaredError", batch, divide_by); }
};

}  // namespace rookery
