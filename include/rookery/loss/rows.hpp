// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the losses share: the divisor, the weights of a batch, and the checks of labels and weights.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <string_view>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

/// What the sum of losses is divided by: the number of rows, or the sum of their weights.
enum class DivideBy { rows, weights };

namespace detail {

/// The labels of the batch; one compile error where it has none.
template <class Batch> at::Tensor labels_of_batch(const Batch& batch) {
  constexpr bool has_labels = requires { batch.labels; };
  static_assert(has_labels, "the losses of rookery/loss/: write `at::Tensor labels` on Batch, and `at::Tensor weights` where rows have "
                            "them; see docs/concepts.md#loss");
  if constexpr (has_labels) return batch.labels;
  else return {};
}
/// The logits of the output; one compile error where it has none.
template <class Output> at::Tensor logits_of_output(const Output& output) {
  constexpr bool has_logits = requires { output.logits; };
  static_assert(has_logits, "the losses of rookery/loss/: write `at::Tensor logits` on what `forward` of Model gives; "
                            "see docs/concepts.md#loss");
  if constexpr (has_logits) return output.logits;
  else return {};
}

/// Errors: DataError for a number of a row outside [low, high] or NaN. Those on another device than the host are not looked at: that would
///         wait for it.
inline void check_numbers(std::string_view who, std::string_view what, const at::Tensor& numbers, double low, double high,
                          std::string_view mistake) {
  if (numbers.numel() == 0 || !numbers.is_cpu()) return;
  const auto [least, most] = numbers.detach().aminmax();                                  // [], []; NaN where a number is
  if (least.item<double>() >= low && most.item<double>() <= high) return;
  const auto all = numbers.detach().reshape({-1});                                           // [B] or [B * T]
  const auto columns = numbers.numel() / numbers.size(0);
  for (std::int64_t i = 0; i < all.numel(); ++i) {
    const auto number = all[i].item<double>();
    check<DataError>(number >= low && number <= high, who, ": ", what, " ", number, " of row ", i / columns, mistake);
  }
}
inline void check_row_weights(std::string_view who, const at::Tensor& weights) {
  check_numbers(who, "weight", weights, 0, std::numeric_limits<double>::max(), " must be finite and not negative");
}

/// The weights of the batch in a dtype, of the labels' shape; undefined where it has none. One weight for each row holds for all its
/// labels.
/// Errors: ShapeError when they are neither of the labels' shape nor [B].
template <class Batch> at::Tensor unchecked_weights_of(std::string_view who, const Batch& batch, at::ScalarType dtype) {
  if constexpr (requires { batch.weights; }) {
    if (!batch.weights.defined()) return {};
    const auto labels = labels_of_batch(batch);                                              // [B] or [B, columns]
    if (labels.dim() == 2 && batch.weights.dim() == 1 && batch.weights.size(0) == labels.size(0))
      return batch.weights.to(dtype).unsqueeze(1).expand(labels.sizes());                    // [B, columns]
    check<ShapeError>(batch.weights.sizes() == labels.sizes(), who, ": labels have shape ", labels.sizes(), " and weights ",
                      batch.weights.sizes());
    return batch.weights.to(dtype);                                                          // as the labels
  } else {
    return {};
  }
}
/// The same, checked. Errors: DataError for a weight that is negative or not finite, on the host.
template <class Batch> at::Tensor weights_of(std::string_view who, const Batch& batch, at::ScalarType dtype) {
  auto weights = unchecked_weights_of(who, batch, dtype);                                    // as the labels, or undefined
  if (weights.defined()) check_row_weights(who, weights);
  return weights;
}

/// [], float64: the number of labels, or the sum of their weights. Errors: ConfigError where there are no weights to sum.
template <class Batch> at::Tensor divisor(std::string_view who, const Batch& batch, DivideBy divide_by) {
  if (divide_by == DivideBy::rows) return ops::scalar_tensor(static_cast<double>(labels_of_batch(batch).numel()), at::kDouble);
  const auto weights = weights_of(who, batch, at::kDouble);
  check<ConfigError>(weights.defined(), who, ": divide_by = weights, but the batch has no weights");
  return weights.sum();
}

inline void check_probabilities(std::string_view who, const at::Tensor& labels) {
  check_numbers(who, "label", labels, 0, 1, " is outside [0, 1]; a label is 0, 1 or a probability");
}
inline void check_finite(std::string_view who, const at::Tensor& labels) {
  check_numbers(who, "label", labels, std::numeric_limits<double>::lowest(), std::numeric_limits<double>::max(), " is not finite");
}

}  // namespace detail
}  // namespace rookery
