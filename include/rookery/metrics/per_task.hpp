// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PerTask: any metric, or suite, for each task of a model that predicts several labels.
//
//   rk::PerTask metrics{{"click", "like"}, rk::MetricSuite{rk::Auc{}, rk::NormalizedEntropy{}}};
//   metrics.update_logits(output.logits, batch.labels, batch.weights);         // [N, 2], [N, 2], [N] or [N, 2]
//   merged(metrics, topology).values();                                        // click/auc, click/ne, like/auc, like/ne
//
// Answers to the tasks of torchrec/metrics/metric_module.py and to build_multi_task_metrics of the-algorithm-ml.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/core/error.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/packed_states.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

/// One `Measure` for each task, made from the one given.
///
/// Shapes: predictions and labels [N, T], a column for each task; weights [N] for all tasks, [N, T], or undefined; groups [N].
/// Errors: ConfigError for no task or a name given twice; ShapeError for another number of columns; those of Samples and of the measure,
///         before any task has the batch.
/// Cost:   T times that of the measure.
/// Ranks:  merged task by task, in rank order.
template <concepts::Measure Measure> class PerTask {
 public:
  explicit PerTask(std::vector<std::string> tasks, Measure measure = Measure{}) : names_(std::move(tasks)) {
    check<ConfigError>(!names_.empty(), "PerTask: there is no task");
    for (auto name = names_.begin(); name != names_.end(); ++name) {
      check<ConfigError>(std::find(names_.begin(), name, *name) == name, "PerTask: task '", *name, "' is named twice");
    }
    measure.reset();
    measures_.assign(names_.size(), measure);
  }

  void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights = {}, const at::Tensor& groups = {}) {
    add(predictions, labels, weights, prediction_kind_of<Measure>(), groups);
  }
  void update_logits(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights = {}, const at::Tensor& groups = {}) {
    add(logits, labels, weights, PredictionKind::logit, groups);
  }

  const std::vector<std::string>& tasks() const { return names_; }
  /// A task's measure. Errors: IndexError for a name that is none.
  const Measure& task(std::string_view name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    check<IndexError>(found != names_.end(), "PerTask: '", name, "' is none of its ", names_.size(), " tasks");
    return measures_[static_cast<std::size_t>(found - names_.begin())];
  }

  std::vector<MetricValue> values() const {
    std::vector<MetricValue> all;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      for (auto& value : values_of(measures_[i], names_[i] + "/")) all.push_back(std::move(value));
    }
    return all;
  }

  void reset() {
    for (auto& measure : measures_) measure.reset();
  }

  /// The state of each task.
  at::Tensor pack() const {
    std::vector<at::Tensor> states;
    for (const auto& measure : measures_) states.push_back(measure.pack());
    return detail::pack_states(std::move(states));
  }
  void merge(const at::Tensor& packed) {
    const auto states = detail::unpack_states(packed, measures_.size(), "PerTask");
    for (std::size_t i = 0; i < states.size(); ++i) measures_[i].merge(states[i]);
  }

 private:
  void add(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights, PredictionKind kind,
           const at::Tensor& groups) {
    const auto count = static_cast<std::int64_t>(names_.size());
    const auto columns = [&](const at::Tensor& tensor, std::string_view name) {
      check<ShapeError>(tensor.defined(), "PerTask: ", name, " is an undefined tensor");
      check<ShapeError>(tensor.dim() == 2 && tensor.size(1) == count, "PerTask: ", name, " has shape ", tensor.sizes(), "; ", count,
                        " tasks take [N, ", count, "]");
    };
    columns(predictions, "predictions");
    columns(labels, "labels");
    if (weights.defined() && weights.dim() != 1) columns(weights, "weights");
    std::vector<Samples> samples;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto weight = weights.defined() && weights.dim() == 2 ? weights.select(1, i) : weights;   // [N]
      samples.emplace_back(predictions.select(1, i), labels.select(1, i), weight, kind, groups);
    }
    for (std::size_t i = 0; i < samples.size(); ++i) check_samples(measures_[i], samples[i]);
    for (std::size_t i = 0; i < samples.size(); ++i) add_samples(measures_[i], samples[i]);
  }

  std::vector<std::string> names_;
  std::vector<Measure> measures_;
};

}  // namespace rookery
