// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// MetricValue: one number of a log or a report, values_of: the numbers of anything that has some, and name_with, which keeps the names
// of metrics with different options apart.  Include cost: tensor.

#include <string>
#include <string_view>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

/// One number of a log or a report; NaN where there is none.
struct MetricValue {
  std::string name;
  double value;
};

/// A metric's name, followed by an option that is not the usual one: recall, recall_threshold_0.7.
inline std::string name_with(std::string_view name, std::string_view option, double value, double usual) {
  return value == usual ? std::string(name) : concat(name, "_", option, "_", value);
}

/// The numbers of a metric, or of what stands for several (a suite, a wrapper), with `prefix` before their names.
template <concepts::Measure Measure> std::vector<MetricValue> values_of(const Measure& measure, std::string_view prefix = {}) {
  std::vector<MetricValue> values;
  const auto add = [&](std::string_view name, double value) { values.push_back({std::string(prefix).append(name), value}); };
  if constexpr (concepts::HasMetricValues<Measure>) {
    for (const auto& [name, value] : measure.values()) add(name, value);
  } else {
    add(measure.name(), measure.value());
  }
  return values;
}

}  // namespace rookery
