// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// RowMetric: the base of metrics whose value needs every row again: those of pairs, of sessions, and of two passes.
//
// Answers to torchrec/metrics' list states, and to gauc.py and ndcg.py, which need a session whole in one batch; here a session may
// be spread over batches and ranks, and the value does not depend on how.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

namespace detail {

/// An integer of 64 bits as two numbers that float64 holds exactly: the high and the low half.
inline std::array<double, 2> halves(std::int64_t id) { return {static_cast<double>(id >> 32), static_cast<double>(id & 0xffffffff)}; }
/// Errors: DataError for numbers that are no halves.
inline std::int64_t from_halves(double high, double low) {
  check<DataError>(high >= -0x1p31 && high < 0x1p31 && low >= 0 && low < 0x1p32, "a packed state has a group of the halves ", high, " and ",
                   low, "; they are integers of 32 bits");
  return (static_cast<std::int64_t>(high) << 32) + static_cast<std::int64_t>(low);
}

}  // namespace detail

/// One row as a RowMetric keeps it.
struct KeptRow {
  std::int64_t group = 0;
  double prediction, label, weight;

  auto operator<=>(const KeptRow&) const = default;
};

/// Keeps rows of non-zero weight. Derived writes `value`, from rows or from sessions in order; with `grouped`, rows come with groups.
///
/// Errors: those of Samples; ConfigError for rows without groups if it is grouped, and for predictions of another kind than those before,
///         where they are kept as they come; NonFiniteError for a packed NaN.
/// Cost:   32 bytes a row (twice that at worst while the list grows), packed as 24, or 40 with its group; sorting is O(N log N).
/// Ranks:  each sends all its rows.
template <class Derived, PredictionKind kind, bool grouped = false> class RowMetric : public SampleMetric<Derived, kind> {
 public:
  static constexpr bool needs_groups = grouped;
  static constexpr bool one_kind = kind != PredictionKind::probability;

  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  void reset() {
    rows_.clear();
    kind_ = {};
  }

  void check_rows(const Samples& samples) const {
    if constexpr (one_kind) kind_.check_same(samples);
  }
  void add(const Samples& samples) {
    admit(samples);
    const auto predictions = samples.predictions(), labels = samples.labels(), weights = samples.weights();
    std::span<const std::int64_t> groups;
    if constexpr (grouped) groups = samples.groups();
    for (std::size_t i = 0; i < labels.size(); ++i) keep({grouped ? groups[i] : 0, predictions[i], labels[i], weights[i]});
  }

  /// Each row: the halves of its group if it has one, prediction, label, weight.
  at::Tensor pack() const {
    auto packed = ops::empty({width * size()}, at::kDouble);                       // [width N]
    auto* to = packed.template mutable_data_ptr<double>();
    for (const auto& row : rows_) {
      if constexpr (grouped) {
        for (const double half : detail::halves(row.group)) *to++ = half;
      }
      for (const double number : {row.prediction, row.label, row.weight}) *to++ = number;
    }
    return packed;
  }

  void merge(const at::Tensor& packed) {
    const auto host = detail::packed_rows(packed, "RowMetric");                                 // [width N]
    const auto from = detail::numbers(host);
    check<ShapeError>(from.size() % width == 0, "RowMetric: a packed state has ", from.size(), " numbers; rows have ", width, " each");
    for (std::size_t i = 0; i < from.size(); i += width) {
      const auto row = from.subspan(i, width);
      keep({grouped ? detail::from_halves(row[0], row[1]) : 0, row[width - 3], row[width - 2], row[width - 1]});
    }
  }

 protected:
  /// Refuses rows, or lets them in, before any is kept.
  void admit(const Samples& samples) {
    check_samples(static_cast<const Derived&>(*this), samples);
    kind_.keep(samples);
  }
  void keep(const KeptRow& row) {
    if (row.weight != 0) rows_.push_back(row);
  }

  /// By group, prediction, label and weight: the same whatever order the rows came in.
  std::vector<KeptRow> sorted_rows() const {
    auto rows = rows_;
    std::sort(rows.begin(), rows.end());
    return rows;
  }

  /// Calls f(rows) with the rows of each group, predictions going up, and groups too.
  template <class F> void for_each_session(F f) const {
    const auto rows = sorted_rows();
    for (auto begin = rows.begin(); begin != rows.end();) {
      const auto end = std::find_if(begin, rows.end(), [&](const KeptRow& row) { return row.group != begin->group; });
      f(std::span<const KeptRow>(begin, end));
      begin = end;
    }
  }

 private:
  static constexpr std::int64_t width = grouped ? 5 : 3;

  std::vector<KeptRow> rows_;
  KeptKind kind_;
};

namespace detail {

/// Calls f(rows) with each run of rows that have one prediction; rows are sorted.
template <class F> void for_each_tie(std::span<const KeptRow> rows, F f) {
  for (auto begin = rows.begin(); begin != rows.end();) {
    const auto end = std::find_if(begin, rows.end(), [&](const KeptRow& row) { return row.prediction != begin->prediction; });
    f(std::span<const KeptRow>(begin, end));
    begin = end;
  }
}

}  // namespace detail

}  // namespace rookery
