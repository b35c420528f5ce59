// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rows that the tests of metrics share.

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace rookery::cases {

inline at::Tensor column(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }   // [N]

struct Rows {
  std::vector<double> predictions, labels, weights;
  std::vector<std::int64_t> groups{};

  std::size_t size() const { return predictions.size(); }
  Rows part(std::size_t begin, std::size_t end) const {
    const auto cut = [&]<class Number>(const std::vector<Number>& all) {
      if (all.empty()) return all;
      return std::vector<Number>(all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(end));
    };
    return {cut(predictions), cut(labels), cut(weights), cut(groups)};
  }
};

/// The five rows of torchrec's metric tests, with their groups.
inline Rows five_rows() { return {{.2, .6, .8, .4, .9}, {1, 0, 0, 1, 1}, {.13, .2, .5, .8, .75}, {0, 1, 0, 1, 1}}; }
/// The four rows of the-algorithm-ml's reference runs.
inline Rows four_rows() { return {{.1, .4, .35, .8}, {0, 0, 1, 1}, {1, 2, 3, 4}}; }

/// Random rows with ties, both classes, some weights of zero and six groups far apart; labels in between on request.
inline Rows random_rows(std::size_t n, std::uint64_t seed, bool soft_labels = false) {
  std::mt19937_64 draw(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  Rows rows;
  for (std::size_t i = 0; i < n; ++i) {
    const double p = uniform(draw);
    rows.predictions.push_back(i % 3 == 0 ? std::round(10 * p) / 10 : p);
    const double label = uniform(draw) < .2 + .6 * p ? 1 : 0;
    rows.labels.push_back(soft_labels ? .8 * label + .2 * uniform(draw) : label);
    rows.weights.push_back(i % 7 == 0 ? 0 : 3 * uniform(draw));
    rows.groups.push_back((static_cast<std::int64_t>(i * i % 11) - 3) * 1234567890123456789 / 4);
  }
  return rows;
}

inline at::Tensor id_column(const std::vector<std::int64_t>& ids) { return at::tensor(ids, at::kLong); }   // [N]

template <class Metric> void feed(Metric& metric, const Rows& rows) {
  const auto groups = rows.groups.size() == rows.size() ? id_column(rows.groups) : at::Tensor();
  metric.update(column(rows.predictions), column(rows.labels), column(rows.weights), groups);
}
template <class Metric> double value_of(Metric metric, const Rows& rows) {
  feed(metric, rows);
  return metric.value();
}
/// The value when every row weighs one.
template <class Metric> double unweighted(Metric metric, const std::vector<double>& predictions, const std::vector<double>& labels) {
  metric.update(column(predictions), column(labels));
  return metric.value();
}

inline std::vector<double> logits_of(const std::vector<double>& probabilities) {
  std::vector<double> logits;
  for (const double p : probabilities) logits.push_back(std::log(p / (1 - p)));
  return logits;
}

/// Whether two numbers differ by at most `tolerance` of the larger one, NaN and infinities by nothing.
inline bool close(double a, double b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b || std::abs(a - b) <= tolerance * std::max(std::abs(a), std::abs(b));
}

}  // namespace rookery::cases
