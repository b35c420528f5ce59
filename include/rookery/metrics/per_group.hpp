// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PerGroup and GroupMean: any metric, or suite, for each group of rows: a stratum, a country, a user. The one gives every group's values,
// the other their mean.
//
//   rk::PerGroup by_country{rk::NormalizedEntropy{}, {.name = "country"}};
//   by_country.update(probabilities, labels, weights, countries);       // group numbers, [N] integers
//
// Answers to torchrec/metrics/segmented_ne.py, to its grouped AUC, AUPRC and RAUC, and to the stratifiers of the-algorithm-ml; differs:
// one wrapper for all metrics, groups are any integers and need not be known before.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/kept_rows.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/packed_states.hpp>
#include <rookery/metrics/samples.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

struct PerGroupOptions {
  std::string name = "group";         // group 3's values are called group_3/..
  std::vector<std::int64_t> only{};   // the groups to keep, whether they get rows or not; none: every group that has rows
};

/// One `Measure` for each group, made from the one given.
///
/// Errors: those of Samples and of the measure; ConfigError for rows without groups.
/// Cost:   a measure's state for each group; a batch is sorted by group, unless it is, and each group's rows go as one.
/// Ranks:  merged group by group, in rank order; a rank need not have seen every group.
template <concepts::Measure Measure> class PerGroup : public SampleMetric<PerGroup<Measure>, prediction_kind_of<Measure>()> {
 public:
  explicit PerGroup(Measure measure = Measure{}, PerGroupOptions options = {}) : empty_(std::move(measure)), options_(std::move(options)) {
    empty_.reset();
    reset();
  }

  static constexpr bool needs_groups = true;
  static constexpr bool one_kind = one_kind_of<Measure>();

  void reset() {
    kind_ = {};
    groups_.clear();
    for (const auto group : options_.only) groups_.try_emplace(group, empty_);
  }

  void check_rows(const Samples& samples) const {
    check_samples(empty_, samples);
    if constexpr (one_kind) kind_.check_same(samples);
  }
  void add(const Samples& samples) {
    check_samples(*this, samples);
    kind_.keep(samples);
    const auto rows = samples.by_group();
    const auto group = rows.groups();
    for (std::size_t begin = 0, end = 0; begin < group.size(); begin = end) {
      while (end < group.size() && group[end] == group[begin]) ++end;
      if (auto* measure = find(group[begin])) add_samples(*measure, rows.part(begin, end));
    }
  }

  /// The groups and their measures, group numbers going up.
  const std::map<std::int64_t, Measure>& groups() const { return groups_; }

  std::vector<MetricValue> values() const {
    std::vector<MetricValue> all;
    for (const auto& [group, measure] : groups_) {
      for (auto& value : values_of(measure, concat(options_.name, "_", group, "/"))) all.push_back(std::move(value));
    }
    return all;
  }

  /// The groups' numbers, in halves, then each group's state.
  at::Tensor pack() const {
    std::vector<at::Tensor> states{ops::empty({2 * static_cast<std::int64_t>(groups_.size())}, at::kDouble)};  // [2 groups]
    auto* to = states.front().mutable_data_ptr<double>();
    for (const auto& [group, measure] : groups_) {
      for (const double half : detail::halves(group)) *to++ = half;
      states.push_back(measure.pack());
    }
    return detail::pack_states(std::move(states));
  }

  void merge(const at::Tensor& packed) {
    const auto states = detail::unpack_states(packed, "PerGroup");
    check<ShapeError>(!states.empty() && states.front().numel() == 2 * (static_cast<std::int64_t>(states.size()) - 1),
                      "PerGroup: a packed state has ", states.size(), " parts; it has its groups' numbers, and one for each group");
    const auto group = detail::numbers(states.front());
    for (std::size_t i = 1; i < states.size(); ++i) {
      if (auto* measure = find(detail::from_halves(group[2 * i - 2], group[2 * i - 1]))) measure->merge(states[i]);
    }
  }

 private:
  /// The measure of a group; none for a group that is not kept.
  Measure* find(std::int64_t group) {
    if (options_.only.empty()) return &groups_.try_emplace(group, empty_).first->second;
    const auto found = groups_.find(group);
    return found == groups_.end() ? nullptr : &found->second;
  }

  Measure empty_;
  PerGroupOptions options_;
  std::map<std::int64_t, Measure> groups_;
  KeptKind kind_;
};

/// The mean of a metric over groups, each counting once: `grouped_auc` for Auc. A group whose value is not finite, such as one of
/// one class, does not count; NaN while none does.
///
/// Errors: those of PerGroup.
/// Cost:   that of PerGroup.
/// Ranks:  as PerGroup.
template <concepts::Metric Metric> class GroupMean : public SampleMetric<GroupMean<Metric>, prediction_kind_of<Metric>()> {
 public:
  explicit GroupMean(Metric metric = Metric{}) : name_(concat("grouped_", metric.name())), groups_(std::move(metric)) {}

  const std::string& name() const { return name_; }
  double value() const { return mean().mean(); }
  /// The number of groups that count.
  std::int64_t groups() const { return static_cast<std::int64_t>(mean().weight()); }

  static constexpr bool needs_groups = true;
  static constexpr bool one_kind = one_kind_of<Metric>();

  void reset() { groups_.reset(); }
  void check_rows(const Samples& samples) const { groups_.check_rows(samples); }
  void add(const Samples& samples) { groups_.add(samples); }
  at::Tensor pack() const { return groups_.pack(); }
  void merge(const at::Tensor& packed) { groups_.merge(packed); }

 private:
  StableMean mean() const {
    StableMean mean;
    for (const auto& metric : groups_.groups() | std::views::values) {
      if (const double value = metric.value(); std::isfinite(value)) mean.add(value);
    }
    return mean;
  }

  std::string name_;
  PerGroup<Metric> groups_;
};

}  // namespace rookery
