// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Samples: the rows of one metric update, checked once and in float64 on the host, whatever dtype and device they came in.
//
// Answers to the argument handling of the-algorithm-ml's metrics/rce.py and auroc.py, which squeeze, broadcast and accept NaN;
// here a NaN, a label outside [0, 1] or a missing row is an error before it is part of a number.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

/// What predictions are: probabilities in [0, 1], logits, scores of which only the order counts, or numbers on the scale of labels
/// which are then any finite number.
enum class PredictionKind { probability, logit, score, number };

/// The kind as a message has it.
constexpr std::string_view to_string(PredictionKind kind) {
  switch (kind) {
    case PredictionKind::probability: return "probabilities";
    case PredictionKind::logit: return "logits";
    case PredictionKind::score: return "scores";
    case PredictionKind::number: return "numbers";
  }
  return "";
}

/// 1 / (1 + e^-logit) without overflow.
inline double sigmoid(double logit) {
  const double decay = std::exp(-std::abs(logit));
  return (logit >= 0 ? 1 : decay) / (1 + decay);
}

namespace detail {

/// A column of rows as [N] on the host; `name` is what a message calls it.
inline at::Tensor host_column(const at::Tensor& column, std::string_view name, at::ScalarType dtype = at::kDouble) {
  check<ShapeError>(column.defined(), name, " is an undefined tensor");
  check<ShapeError>(column.dim() == 1 || (column.dim() == 2 && column.size(1) == 1), name, " has shape ", column.sizes(),
                    "; a metric takes [N] or [N, 1]");
  return column.detach().to(at::kCPU, dtype).reshape({-1}).contiguous();          // [N]
}

inline at::Tensor group_column(const at::Tensor& groups) {
  check<DataError>(at::isIntegralType(groups.scalar_type(), false), "Samples: groups are ",
                   c10::toString(groups.scalar_type()), "; they are integers");
  return host_column(groups, "Samples: groups", at::kLong);                        // [N]
}

inline std::span<const double> numbers(const at::Tensor& column) {
  return {column.const_data_ptr<double>(), static_cast<std::size_t>(column.numel())};
}

/// The packed rows of the metric that a message calls `owner`. Errors: NonFiniteError for a NaN or an infinity, which no row has.
inline at::Tensor packed_rows(const at::Tensor& packed, std::string_view owner) {
  auto host = host_column(packed, concat(owner, ": a packed state"));              // [n]
  const auto from = numbers(host);
  for (std::size_t i = 0; i < from.size(); ++i) {
    check<NonFiniteError>(std::isfinite(from[i]), owner, ": a packed state has ", from[i], " in place ", i, "; rows are finite numbers");
  }
  return host;                                                                     // [n]
}

}  // namespace detail

/// Predictions, labels, weights and, where rows belong to a user, a session or a stratum, the number of that group, for N rows.
///
/// Shapes:  [N] or [N, 1] each; N may be 0. Weights may be undefined: every row then weighs 1. Groups may be undefined: there are none.
/// Dtypes:  any; float64 inside, groups of integers int64.
/// Errors:  ShapeError if lengths differ; NonFiniteError for a prediction that is NaN or infinite, whatever its weight; DataError for
///          a probability or a label outside [0, 1], a label that is not finite, a weight that is negative, NaN or infinite, and groups
///          that are no integers. Each names the row.
/// Cost:    one pass; one copy from the device for each tensor that is not there yet.
class Samples {
 public:
  Samples(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights = {},
          PredictionKind kind = PredictionKind::probability, const at::Tensor& groups = {})
      : predictions_(detail::host_column(predictions, "Samples: predictions")),
        labels_(detail::host_column(labels, "Samples: labels")),
        weights_(weights.defined() ? detail::host_column(weights, "Samples: weights") : ops::ones({predictions_.numel()}, at::kDouble)),
        end_(static_cast<std::size_t>(predictions_.numel())), kind_(kind) {
    if (groups.defined()) groups_ = detail::group_column(groups);                  // [N]
    const auto same = [&](const at::Tensor& column, std::string_view name) {
      check<ShapeError>(column.numel() == predictions_.numel(), "Samples: predictions has ", predictions_.numel(), " rows, ", name, " has ",
                        column.numel());
    };
    same(labels_, "labels");
    same(weights_, "weights");
    if (groups_.defined()) same(groups_, "groups");
    const auto p = this->predictions(), y = this->labels(), w = this->weights();
    for (std::size_t i = 0; i < p.size(); ++i) {
      check<NonFiniteError>(std::isfinite(p[i]), "Samples: predictions[", i, "] is ", p[i], "; a metric takes finite predictions only");
      check<DataError>(kind != PredictionKind::probability || (p[i] >= 0 && p[i] <= 1), "Samples: predictions[", i, "] is ", p[i],
                       "; probabilities lie in [0, 1], logits go to update_logits");
      if (kind == PredictionKind::number) {
        check<DataError>(std::isfinite(y[i]), "Samples: labels[", i, "] is ", y[i], "; labels are finite");
      } else {
        check<DataError>(y[i] >= 0 && y[i] <= 1, "Samples: labels[", i, "] is ", y[i], "; labels lie in [0, 1]");
      }
      check<DataError>(w[i] >= 0 && std::isfinite(w[i]), "Samples: weights[", i, "] is ", w[i], "; weights are finite and not negative");
    }
  }

  std::int64_t size() const { return static_cast<std::int64_t>(end_ - begin_); }
  PredictionKind kind() const { return kind_; }
  std::span<const double> predictions() const { return rows_of(predictions_); }          // [N]
  std::span<const double> labels() const { return rows_of(labels_); }                    // [N]
  std::span<const double> weights() const { return rows_of(weights_); }                  // [N]
  /// Errors: ConfigError where rows came without groups.
  std::span<const std::int64_t> groups() const {
    check<ConfigError>(groups_.defined(), "Samples: a metric of groups or sessions is fed without them; update(predictions, labels, ",
                       "weights, groups) takes one integer a row");
    return {groups_.const_data_ptr<std::int64_t>() + begin_, end_ - begin_};             // [N]
  }

  /// Row i's probability. Errors: ConfigError of scores and of numbers.
  double probability(std::size_t i) const {
    check<ConfigError>(kind_ != PredictionKind::score, "Samples: a probability is asked of scores, of which only the order is known");
    check<ConfigError>(kind_ != PredictionKind::number, "Samples: a probability is asked of numbers, which are on the labels' scale");
    return estimate(i);
  }
  /// What row i's prediction says that its label is: its probability, or the number itself. Errors: ConfigError of scores.
  double estimate(std::size_t i) const {
    check<ConfigError>(kind_ != PredictionKind::score, "Samples: an estimate is asked of scores, of which only the order is known");
    const double prediction = predictions()[i];
    return kind_ == PredictionKind::logit ? sigmoid(prediction) : prediction;
  }

  /// Predictions as [N] float64, logits turned into probabilities.
  at::Tensor predictions_tensor() const {
    const auto rows = narrow(predictions_);                                              // [N]
    return kind_ == PredictionKind::logit ? rows.sigmoid() : rows;                       // [N]
  }
  at::Tensor labels_tensor() const { return narrow(labels_); }                           // [N]
  at::Tensor weights_tensor() const { return narrow(weights_); }                         // [N]

  /// Rows [begin, end), sharing memory.
  Samples part(std::size_t begin, std::size_t end) const {
    check<IndexError>(begin <= end && end <= end_ - begin_, "Samples: rows [", begin, ", ", end, ") of ", size());
    Samples rows = *this;
    rows.end_ = begin_ + end;
    rows.begin_ = begin_ + begin;
    return rows;
  }

  /// The rows in the order of their groups; rows of a group stay in the order they came in.
  Samples by_group() const {
    const auto group = groups();
    if (std::is_sorted(group.begin(), group.end())) return *this;
    std::vector<std::size_t> order(group.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return group[i] < group[j]; });
    Samples rows = part(0, 0);
    const auto reorder = [&]<class Number>(at::Tensor& column, std::span<const Number> from) {
      column = ops::empty({size()}, column.options());                                   // [N]
      auto* to = column.template mutable_data_ptr<Number>();
      for (const auto i : order) *to++ = from[i];
    };
    reorder(rows.predictions_, predictions());
    reorder(rows.labels_, labels());
    reorder(rows.weights_, weights());
    reorder(rows.groups_, group);
    rows.begin_ = 0;
    rows.end_ = order.size();
    return rows;
  }

 private:
  std::span<const double> rows_of(const at::Tensor& column) const { return detail::numbers(column).subspan(begin_, end_ - begin_); }
  at::Tensor narrow(const at::Tensor& column) const { return column.narrow(0, static_cast<std::int64_t>(begin_), size()); }   // [N]

  at::Tensor predictions_, labels_, weights_, groups_;                                   // each as long as the others; groups_ or nothing
  std::size_t begin_ = 0, end_;                                                          // the rows of them
  PredictionKind kind_;
};

/// What a metric takes predictions for when they come as one tensor: its `prediction_kind`, else probabilities.
template <class Metric> constexpr PredictionKind prediction_kind_of() {
  if constexpr (requires { Metric::prediction_kind; }) return Metric::prediction_kind;
  else return PredictionKind::probability;
}

/// Whether a metric's rows belong to groups: its `needs_groups`, else not.
template <class Metric> constexpr bool needs_groups_of() {
  if constexpr (requires { Metric::needs_groups; }) return Metric::needs_groups;
  else return false;
}

/// Whether a metric keeps predictions as they come, to compare them with each other: its `one_kind`, else not.
template <class Metric> constexpr bool one_kind_of() {
  if constexpr (requires { Metric::one_kind; }) return Metric::one_kind;
  else return false;
}

/// The kind of the predictions that a metric keeps. Probabilities and logits are on two scales, and no order among them means anything.
class KeptKind {
 public:
  /// Errors: ConfigError for another kind than that of the first rows.
  void check_same(const Samples& samples) const {
    check<ConfigError>(!kind_ || samples.size() == 0 || *kind_ == samples.kind(), "Samples: a metric that compares predictions was fed ",
                       to_string(kind_.value_or(samples.kind())), " and is now fed ", to_string(samples.kind()),
                       ", which are on another scale; use update or update_logits alone, or reset it in between");
  }
  void keep(const Samples& samples) {
    if (samples.size() > 0) kind_ = samples.kind();
  }

 private:
  std::optional<PredictionKind> kind_;
};

/// Refuses rows that a metric will not take while nothing has changed: for want of groups, or by its `check_rows(samples)`.
template <class Metric> void check_samples(const Metric& metric, const Samples& samples) {
  if constexpr (needs_groups_of<Metric>()) samples.groups();
  if constexpr (requires { metric.check_rows(samples); }) metric.check_rows(samples);
}

/// Adds rows to a metric: as they came to one of the library, as probabilities and [N] float64 on the host each to another.
template <class Metric> void add_samples(Metric& metric, const Samples& samples) {
  if constexpr (requires { metric.add(samples); }) metric.add(samples);
  else metric.update(samples.predictions_tensor(), samples.labels_tensor(), samples.weights_tensor());
}

/// Base of a metric that is computed from samples. Derived writes `add(const Samples&)`; the calls that take tensors come from here.
/// `kind` is what the metric takes predictions for: scores, if all that it does is to rank. A metric that refuses rows says so in
/// `check_rows(const Samples&) const`, which a suite asks of all its metrics before any of them has the rows.
template <class Derived, PredictionKind kind = PredictionKind::probability> class SampleMetric {
 public:
  static constexpr PredictionKind prediction_kind = kind;

  /// Adds rows: all of them, or none if one is refused. `groups` numbers the group of each row, for metrics that know groups.
  void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights = {}, const at::Tensor& groups = {}) {
    static_cast<Derived&>(*this).add(Samples(predictions, labels, weights, kind, groups));
  }
  /// Adds rows whose predictions are logits: exact where a probability in float32 would have become 0 or 1.
  void update_logits(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights = {}, const at::Tensor& groups = {}) {
    static_cast<Derived&>(*this).add(Samples(logits, labels, weights, PredictionKind::logit, groups));
  }
};

}  // namespace rookery
