// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Bce: binary cross entropy of logits, weighted by row.
//
// Answers to the-algorithm-ml core/losses.py build_loss and torch.nn.BCEWithLogitsLoss.  Include cost: tensor.

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/scalar_tensor.h>

#include <cstdint>

#include <rookery/core/error.hpp>

namespace rookery {

/// What the sum of losses is divided by: the number of rows, or the sum of their weights.
enum class DivideBy { rows, weights };

/// -w (y log s(x) + (1 - y) log(1 - s(x))), in natural logarithms, of `output.logits` against `batch.labels`. Rows are weighted
/// by `batch.weights` where the batch has them and they are defined.
///
/// Shapes:  logits, labels, weights: the same, [B] or [B, 1] -> [].
/// Errors:  ShapeError when they differ; DataError for a label outside [0, 1] or NaN. Labels on another device than the host are not looked
///          at: that would wait for it.
/// Cost:    one pass over the logits, one over the labels.
struct Bce {
  DivideBy divide_by = DivideBy::rows;

  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    const auto& x = output.logits;                                                           // [B]
    check<ShapeError>(x.sizes() == batch.labels.sizes(), "Bce: logits have shape ", x.sizes(), " and labels ", batch.labels.sizes());
    const auto weights = weights_of(batch, x.scalar_type());                                 // [B] or undefined
    const auto labels = batch.labels.to(x.scalar_type());                                    // [B]
    check_labels(labels);
    return at::binary_cross_entropy_with_logits(x, labels, weights, {}, at::Reduction::Sum);   // []
  }

  template <class Batch> at::Tensor normaliser(const Batch& batch) const {
    if (divide_by == DivideBy::rows) return at::scalar_tensor(static_cast<double>(batch.labels.numel()), at::kDouble);   // []
    const auto weights = weights_of(batch, at::kDouble);                                     // [B]
    check<ConfigError>(weights.defined(), "Bce: divide_by = weights, but the batch has no weights");
    return weights.sum();                                                                    // []
  }

 private:
  static void check_labels(const at::Tensor& labels) {
    if (labels.numel() == 0 || !labels.is_cpu()) return;
    const auto [least, most] = at::aminmax(labels.detach());                                 // [], []; NaN where a label is
    if (least.item<double>() >= 0 && most.item<double>() <= 1) return;
    const auto all = labels.detach().reshape({-1});                                          // [B]
    for (std::int64_t row = 0; row < all.numel(); ++row) {
      const auto label = all[row].item<double>();
      check<DataError>(label >= 0 && label <= 1, "Bce: label ", label, " of row ", row,
                       " is outside [0, 1]; a comparison in the schema, such as rating >= 4, makes labels of numbers");
    }
  }

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
