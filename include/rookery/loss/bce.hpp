// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Bce: binary cross entropy of logits, weighted by row.
//
// Answers to the-algorithm-ml core/losses.py build_loss and torch.nn.BCEWithLogitsLoss.  Include cost: tensor.

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/scalar_tensor.h>

#include <rookery/core/error.hpp>

namespace rookery {

/// What the sum of losses is divided by: the number of rows, or the sum of their weights.
enum class DivideBy { rows, weights };

/// -w (y log s(x) + (1 - y) log(1 - s(x))), in natural logarithms, of `output.logits` against `batch.labels`. Rows are weighted
/// by `batch.weights` where the batch has them and they are defined.
///
/// Shapes:  logits, labels, weights: the same, [B] or [B, 1] -> [].
/// Errors:  ShapeError when they differ.
struct Bce {
  DivideBy divide_by = DivideBy::rows;

  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    const auto& x = output.logits;                                                           // [B]
    check<ShapeError>(x.sizes() == batch.labels.sizes(), "Bce: logits have shape ", x.sizes(), " and labels ", batch.labels.sizes());
    const auto weights = weights_of(batch, x.scalar_type());                                 // [B] or undefined
    return at::binary_cross_entropy_with_logits(x, batch.labels.to(x.scalar_type()), weights, {}, at::Reduction::Sum);   // []
  }

  template <class Batch> at::Tensor normaliser(const Batch& batch) const {
    if (divide_by == DivideBy::rows) return at::scalar_tensor(static_cast<double>(batch.labels.numel()), at::kDouble);   // []
    const auto weights = weights_of(batch, at::kDouble);                                     // [B]
    check<ConfigError>(weights.defined(), "Bce: divide_by = weights, but the batch has no weights");
    return weights.sum();                                                                    // []
  }

 private:
  template <class Batch> static at::Tensor weights_of(const Batch& batch, at::ScalarType dtype) {
    if constexpr (requires { batch.weights; }) {
      check<ShapeError>(!batch.weights.defined() || batch.weights.sizes() == batch.labels.sizes(), "Bce: labels have shape ",
                        batch.labels.sizes(), " and weights ", batch.weights.defined() ? batch.weights.sizes() : batch.labels.sizes());
      return batch.weights.defined() ? batch.weights.to(dtype) : at::Tensor{};
    } else {
      return {};
    }
  }
};

}  // namespace rookery
