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
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/core/error.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

/// One number of a log or a report; NaN where there is none.
struct MetricValue {
  std::string name;
  double value;
};

/// Chosen only when one of the types is no metric: it explains.
template <class... Metrics> class MetricSuite {
  static_assert((concepts::HasMetricUpdate<Metrics> && ...),
                "MetricSuite<Metrics...>: write `void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& "
                "weights)` on each metric; see docs/concepts.md#metric");
  static_assert(!(concepts::HasMetricUpdate<Metrics> && ...) || (concepts::HasMetricValue<Metrics> && ...),
                "MetricSuite<Metrics...>: write `std::string_view name() const` and `double value() const` on each metric; see "
                "docs/concepts.md#metric");
  static_assert(!((concepts::HasMetricUpdate<Metrics> && concepts::HasMetricValue<Metrics>) && ...) ||
                    (concepts::Mergeable<Metrics> && ...),
                "MetricSuite<Metrics...>: write `void reset()`, `at::Tensor pack() const` and `void merge(const at::Tensor& packed)` on "
                "each metric, and let it be copied; see docs/concepts.md#metric");

 public:
  MetricSuite() requires(sizeof...(Metrics) > 0) = default;
  explicit MetricSuite(const Metrics&...) {}
  void update(const at::Tensor&, const at::Tensor&, const at::Tensor& = {}) {}
  void update_logits(const at::Tensor&, const at::Tensor&, const at::Tensor& = {}) {}
  std::vector<MetricValue> values() const { return {}; }
  void reset() {}
  at::Tensor pack() const { return {}; }
  void merge(const at::Tensor&) {}
};

/// The metrics, in the order given. A metric of the library reads the rows as they came; another gets them as probabilities, [N]
/// float64 on the host each.
///
/// Errors: those of Samples, before any metric has the batch.
/// Cost:   one copy to the host and one check a batch, then the metrics' own.
template <concepts::Metric... Metrics> class MetricSuite<Metrics...> {
 public:
  MetricSuite() requires(sizeof...(Metrics) > 0) = default;
  explicit MetricSuite(Metrics... metrics) : metrics_(std::move(metrics)...) {}

  /// Adds rows whose predictions are probabilities. Shapes: [N] or [N, 1] each; weights may be undefined (1 each).
  void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights = {}) {
    add(Samples(predictions, labels, weights));
  }
  /// Adds rows whose predictions are logits.
  void update_logits(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights = {}) {
    add(Samples(logits, labels, weights, PredictionKind::logit));
  }
  void add(const Samples& samples) {
    const auto add_to = [&](auto& metric) {
      if constexpr (requires { metric.add(samples); }) metric.add(samples);
      else metric.update(samples.predictions_tensor(), samples.labels_tensor(), samples.weights_tensor());
    };
    std::apply([&](auto&... metric) { (add_to(metric), ...); }, metrics_);
  }

  std::vector<MetricValue> values() const {
    return std::apply(
        [](const auto&... metric) { return std::vector<MetricValue>{{std::string(metric.name()), metric.value()}...}; }, metrics_);
  }

  /// One of the metrics, by its type.
  template <class Metric> Metric& get() { return std::get<Metric>(metrics_); }
  template <class Metric> const Metric& get() const { return std::get<Metric>(metrics_); }

  void reset() {
    std::apply([](auto&... metric) { (metric.reset(), ...); }, metrics_);
  }

  /// The length of each metric's state, then the states.
  at::Tensor pack() const {
    auto lengths = at::empty({count}, at::kDouble);                                // [metrics]
    std::vector<at::Tensor> parts{lengths};
    std::apply([&](const auto&... metric) { (parts.push_back(metric.pack()), ...); }, metrics_);
    for (std::int64_t i = 0; i < count; ++i) {
      lengths.mutable_data_ptr<double>()[i] = static_cast<double>(parts[static_cast<std::size_t>(i) + 1].numel());
    }
    return at::cat(parts);                                                         // [metrics + sum of lengths]
  }

  void merge(const at::Tensor& packed) {
    const auto host = detail::host_column(packed, "MetricSuite: a packed state");               // [metrics + sum of lengths]
    const auto from = detail::numbers(host);
    check<ShapeError>(host.numel() >= count, "MetricSuite: a packed state has ", host.numel(), " numbers; ", count, " metrics have more");
    std::int64_t begin = count;
    std::size_t index = 0;
    const auto merge_into = [&](auto& metric) {
      const auto length = static_cast<std::int64_t>(from[index++]);
      check<ShapeError>(length >= 0 && begin + length <= host.numel(), "MetricSuite: the packed state of ", metric.name(), " has ", length,
                        " numbers; ", host.numel() - begin, " are left");
      metric.merge(host.narrow(0, begin, length));                                 // [length]
      begin += length;
    };
    std::apply([&](auto&... metric) { (merge_into(metric), ...); }, metrics_);
    check<ShapeError>(begin == host.numel(), "MetricSuite: a packed state has ", host.numel(), " numbers; its metrics read ", begin);
  }

 private:
  static constexpr std::int64_t count = sizeof...(Metrics);

  std::tuple<Metrics...> metrics_;
};

template <class... Metrics> MetricSuite(Metrics...) -> MetricSuite<Metrics...>;

}  // namespace rookery
