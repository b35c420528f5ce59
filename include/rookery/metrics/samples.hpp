// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Samples: the rows of one metric update, checked once and in float64 on the host, whatever dtype and device they came in.
//
// Answers to the argument handling of the-algorithm-ml's metrics/rce.py and auroc.py, which squeeze, broadcast and accept NaN;
// here a NaN, a label outside [0, 1] or a missing row is an error before it is part of a number.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>

#include <rookery/core/error.hpp>

namespace rookery {

/// What predictions are: probabilities in [0, 1], logits, or scores of which only the order counts.
enum class PredictionKind { probability, logit, score };

/// 1 / (1 + e^-logit) without overflow.
inline double sigmoid(double logit) {
  const double decay = std::exp(-std::abs(logit));
  return (logit >= 0 ? 1 : decay) / (1 + decay);
}

namespace detail {

/// A column of rows as [N] float64 on the host; `name` is what a message calls it.
inline at::Tensor host_column(const at::Tensor& column, std::string_view name) {
  check<ShapeError>(column.defined(), name, " is an undefined tensor");
  check<ShapeError>(column.dim() == 1 || (column.dim() == 2 && column.size(1) == 1), name, " has shape ", column.sizes(),
                    "; a metric takes [N] or [N, 1]");
  return column.detach().to(at::kCPU, at::kDouble).reshape({-1}).contiguous();    // [N]
}

inline std::span<const double> numbers(const at::Tensor& column) {
  return {column.const_data_ptr<double>(), static_cast<std::size_t>(column.numel())};
}

}  // namespace detail

/// Predictions, labels and weights of N rows.
///
/// Shapes:  [N] or [N, 1] each; N may be 0. Weights may be undefined: every row then weighs 1.
/// Dtypes:  any; float64 inside.
/// Errors:  ShapeError if lengths differ; NonFiniteError for a prediction that is NaN or infinite, whatever its weight; DataError for
///          a probability or a label outside [0, 1] and for a weight that is negative, NaN or infinite. Each names the row.
/// Cost:    one pass; one copy from the device for each tensor that is not there yet.
class Samples {
 public:
  Samples(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights = {},
          PredictionKind kind = PredictionKind::probability)
      : predictions_tensor_(detail::host_column(predictions, "Samples: predictions")),
        labels_tensor_(detail::host_column(labels, "Samples: labels")),
        weights_tensor_(weights.defined() ? detail::host_column(weights, "Samples: weights")
                                          : at::ones({predictions_tensor_.numel()}, at::kDouble)),
        predictions_(detail::numbers(predictions_tensor_)), labels_(detail::numbers(labels_tensor_)),
        weights_(detail::numbers(weights_tensor_)), kind_(kind) {
    const auto p = predictions_, y = labels_, w = weights_;
    check<ShapeError>(y.size() == p.size(), "Samples: predictions has ", p.size(), " rows, labels has ", y.size());
    check<ShapeError>(w.size() == p.size(), "Samples: predictions has ", p.size(), " rows, weights has ", w.size());
    for (std::size_t i = 0; i < p.size(); ++i) {
      check<NonFiniteError>(std::isfinite(p[i]), "Samples: predictions[", i, "] is ", p[i], "; a metric takes finite predictions only");
      check<DataError>(kind != PredictionKind::probability || (p[i] >= 0 && p[i] <= 1), "Samples: predictions[", i, "] is ", p[i],
                       "; probabilities lie in [0, 1], logits go to update_logits");
      check<DataError>(y[i] >= 0 && y[i] <= 1, "Samples: labels[", i, "] is ", y[i], "; labels lie in [0, 1]");
      check<DataError>(w[i] >= 0 && std::isfinite(w[i]), "Samples: weights[", i, "] is ", w[i], "; weights are finite and not negative");
    }
  }

  std::int64_t size() const { return predictions_tensor_.numel(); }
  PredictionKind kind() const { return kind_; }
  std::span<const double> predictions() const { return predictions_; }                   // [N]
  std::span<const double> labels() const { return labels_; }                             // [N]
  std::span<const double> weights() const { return weights_; }                           // [N]
  const at::Tensor& labels_tensor() const { return labels_tensor_; }                     // [N]
  const at::Tensor& weights_tensor() const { return weights_tensor_; }                   // [N]

  /// Row i's probability. Errors: ConfigError of scores.
  double probability(std::size_t i) const {
    check<ConfigError>(kind_ != PredictionKind::score, "Samples: a probability is asked of scores, of which only the order is known");
    return kind_ == PredictionKind::logit ? sigmoid(predictions_[i]) : predictions_[i];
  }

  /// Predictions as [N] float64, logits turned into probabilities.
  at::Tensor predictions_tensor() const {
    return kind_ == PredictionKind::logit ? predictions_tensor_.sigmoid() : predictions_tensor_;   // [N]
  }

 private:
  at::Tensor predictions_tensor_, labels_tensor_, weights_tensor_;                       // [N] each
  std::span<const double> predictions_, labels_, weights_;                               // of the tensors
  PredictionKind kind_;
};

/// Base of a metric that is computed from samples. Derived writes `add(const Samples&)`; the calls that take tensors come from here.
/// `kind` is what the metric takes predictions for: scores, if all that it does is to rank.
template <class Derived, PredictionKind kind = PredictionKind::probability> class SampleMetric {
 public:
  /// Adds rows: all of them, or none if one is refused.
  void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights = {}) {
    static_cast<Derived&>(*this).add(Samples(predictions, labels, weights, kind));
  }
  /// Adds rows whose predictions are logits: exact where a probability in float32 would have become 0 or 1.
  void update_logits(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights = {}) {
    static_cast<Derived&>(*this).add(Samples(logits, labels, weights, PredictionKind::logit));
  }
};

}  // namespace rookery
