// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// MetricSuite: several metrics, fixed at compile time, fed from one call and merged over ranks in one exchange.
//
//   rk::MetricSuite metrics{rk::Auc{}, rk::NormalizedEntropy{}, rk::LogLoss{}, rk::Calibration{}};
//   metrics.update_logits(output.logits, batch.labels, batch.weights);
//   for (const auto& [name, value] : merged(metrics, topology).values()) ...
//
// Answers to torchrec/metrics/metric_module.py RecMetricModule, and to torchmetrics' MetricCollection in the-algorithm-ml.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/packed_states.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

namespace detail {

/// What all the metrics take predictions for, else probabilities.
template <class First = void, class... Others> constexpr PredictionKind common_prediction_kind() {
  return ((prediction_kind_of<First>() == prediction_kind_of<Others>()) && ...) ? prediction_kind_of<First>() : PredictionKind::probability;
}

}  // namespace detail

/// Chosen only when one of the types is no metric: it explains.
template <class... Metrics> class MetricSuite {
  static_assert((concepts::HasMetricUpdate<Metrics> && ...),
                "MetricSuite<Metrics...>: write `void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& "
                "weights)` on each metric; see docs/concepts.md#metric");
  static_assert(!(concepts::HasMetricUpdate<Metrics> && ...) || (concepts::Reports<Metrics> && ...),
                "MetricSuite<Metrics...>: write `std::string_view name() const` and `double value() const` on each metric; see "
                "docs/concepts.md#metric");
  static_assert(!((concepts::HasMetricUpdate<Metrics> && concepts::Reports<Metrics>) && ...) || (concepts::Mergeable<Metrics> && ...),
                "MetricSuite<Metrics...>: write `void reset()`, `at::Tensor pack() const` and `void merge(const at::Tensor& packed)` on "
                "each metric, and let it be copied; see docs/concepts.md#metric");

 public:
  MetricSuite() requires(sizeof...(Metrics) > 0) = default;
  explicit MetricSuite(const Metrics&...) {}
  void update(const at::Tensor&, const at::Tensor&, const at::Tensor& = {}, const at::Tensor& = {}) {}
  void update_logits(const at::Tensor&, const at::Tensor&, const at::Tensor& = {}, const at::Tensor& = {}) {}
  std::vector<MetricValue> values() const { return {}; }
  void reset() {}
  at::Tensor pack() const { return {}; }
  void merge(const at::Tensor&) {}
};

/// The metrics, in the order given; a wrapper or a suite among them gives all its values. A metric of the library reads the rows as
/// they came; another gets them as probabilities, [N] float64 on the host each. `update` takes predictions for what all the metrics
/// take them, such as numbers where all are metrics of regression, else for probabilities.
///
/// Errors: those of Samples, ConfigError where a metric of groups is fed without them, and what a metric of the library refuses: all before
///         any metric has the batch. A metric of your own is asked too, if it has a `check_rows(const Samples&) const`.
/// Cost:   one copy to the host and one check a batch, then the metrics' own.
template <concepts::Measure... Metrics>
class MetricSuite<Metrics...> : public SampleMetric<MetricSuite<Metrics...>, detail::common_prediction_kind<Metrics...>()> {
 public:
  MetricSuite() requires(sizeof...(Metrics) > 0) = default;
  explicit MetricSuite(Metrics... metrics) : metrics_(std::move(metrics)...) {}

  static constexpr bool needs_groups = (needs_groups_of<Metrics>() || ...);
  static constexpr bool one_kind = (one_kind_of<Metrics>() || ...);

  void check_rows(const Samples& samples) const {
    std::apply([&](const auto&... metric) { (check_samples(metric, samples), ...); }, metrics_);
  }
  void add(const Samples& samples) {
    check_rows(samples);
    std::apply([&](auto&... metric) { (add_samples(metric, samples), ...); }, metrics_);
  }

  std::vector<MetricValue> values() const {
    std::vector<MetricValue> all;
    const auto append = [&](const auto& metric) {
      for (auto& value : values_of(metric)) all.push_back(std::move(value));
    };
    std::apply([&](const auto&... metric) { (append(metric), ...); }, metrics_);
    return all;
  }

  /// One of the metrics, by its type.
  template <class Metric> Metric& get() { return std::get<Metric>(metrics_); }
  template <class Metric> const Metric& get() const { return std::get<Metric>(metrics_); }

  void reset() {
    std::apply([](auto&... metric) { (metric.reset(), ...); }, metrics_);
  }

  /// The state of each metric.
  at::Tensor pack() const {
    return std::apply([](const auto&... metric) { return detail::pack_states({metric.pack()...}); }, metrics_);
  }

  void merge(const at::Tensor& packed) {
    const auto states = detail::unpack_states(packed, sizeof...(Metrics), "MetricSuite");
    std::size_t index = 0;
    std::apply([&](auto&... metric) { (metric.merge(states[index++]), ...); }, metrics_);
  }

 private:
  std::tuple<Metrics...> metrics_;
};

template <class... Metrics> MetricSuite(Metrics...) -> MetricSuite<Metrics...>;

}  // namespace rookery
