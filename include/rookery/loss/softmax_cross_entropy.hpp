// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// SoftmaxCrossEntropy: one class of several, weighted by row.  Answers to torch.nn.CrossEntropyLoss.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <rookery/core/error.hpp>
#include <rookery/loss/rows.hpp>

namespace rookery {

/// -w log softmax(x)[y] of `output.logits` against the classes `batch.labels`, whole numbers from 0 of any dtype. Rows are weighted by
/// `batch.weights` where the batch has them and they are defined.
///
/// Shapes:  logits [B, C], labels and weights [B] -> [].
/// Errors:  ShapeError when they do not fit; DataError for a label that is none of the C classes, and for a weight that is negative or not
///          finite. Labels and weights on another device than the host are not looked at: that would wait for it.
struct SoftmaxCrossEntropy {
  DivideBy divide_by = DivideBy::rows;

  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    const auto x = detail::logits_of_output(output);                                         // [B, C]
    const auto labels = detail::labels_of_batch(batch);                                      // [B]
    check<ShapeError>(x.dim() == 2 && labels.dim() == 1 && x.size(0) == labels.size(0), "SoftmaxCrossEntropy: logits have shape ",
                      x.sizes(), " and labels ", labels.sizes(), "; they must be [B, C] and [B]");
    check_classes(labels, x.size(1));
    const auto weights = detail::weights_of("SoftmaxCrossEntropy", batch, x.scalar_type());  // [B] or undefined
    const auto classes = labels.to(at::kLong).unsqueeze(1);                                  // [B, 1]
    const auto losses = x.log_softmax(1).gather(1, classes).squeeze(1).neg();           // [B]
    return (weights.defined() ? losses.mul(weights) : losses).sum();                         // []
  }

  template <class Batch> at::Tensor normaliser(const Batch& batch) const {
    return detail::divisor("SoftmaxCrossEntropy", batch, divide_by);
  }

 private:
  static void check_classes(const at::Tensor& labels, std::int64_t count) {
    if (!labels.is_cpu()) return;
    const auto all = labels.detach().to(at::kDouble).contiguous();                           // [B]
    const auto* label = all.const_data_ptr<double>();
    for (std::int64_t row = 0; row < all.numel(); ++row)
      check<DataError>(label[row] >= 0 && label[row] < static_cast<double>(count) &&
                           label[row] == static_cast<double>(static_cast<std::int64_t>(label[row])),
                       "SoftmaxCrossEntropy: label ", label[row], " of row ", row, " is none of the classes 0 to ", count - 1);
  }
};

}  // namespace rookery
