// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ScoredRows: every row as a score and a weight of one of two classes, sorted in linear time. What Auc and Auprc keep. And WonPairs,
// the sum that every form of AUC is.
//
// Answers to the state of metrics/auroc.py of the-algorithm-ml and torchrec/metrics/auc.py; differs: half the memory while the
// numbers are float32's, sums that do not depend on the order of rows.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

/// Pairs of a positive and a negative, counted by weight while scores go up.
struct WonPairs {
  double positives = 0, negatives = 0;   // weight at or below the score
  double won = 0;                        // weight of the pairs that the positive won

  /// Rows of one score; a tied pair counts as `tie` of a won one.
  void add(double tied_positives, double tied_negatives, double tie = .5) {
    won += tied_positives * (negatives + tied_negatives * tie);
    positives += tied_positives;
    negatives += tied_negatives;
  }
  bool one_class() const { return positives == 0 || negatives == 0; }
  double pairs() const { return positives * negatives; }
};

/// Scores with weights, those of the negatives below zero; rows of weight zero are not kept.
///
/// Cost: 8 bytes a row while score and weight are float32 numbers, else 16 (twice that at worst while the list grows).
class ScoredRows {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(floats_.size() + doubles_.size()); }

  void clear() {
    floats_.clear();
    doubles_.clear();
    kind_ = {};
  }

  /// Errors: ConfigError for scores of another kind than those before.
  void check_rows(const Samples& samples) const { kind_.check_same(samples); }
  void add(const Samples& samples) {
    check_rows(samples);
    kind_.keep(samples);
    const auto scores = samples.predictions(), labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < scores.size(); ++i) keep(scores[i], labels[i] > .5 ? weights[i] : -weights[i]);
  }

  /// Calls f(positives, negatives) with the weights of each different score, scores going up. The same bits whatever order the rows
  /// came in. Cost: O(N), with a sorted copy and as much scratch.
  template <class F> void for_each_score(F f) const {
    const auto floats = sorted(floats_);
    const auto doubles = sorted(doubles_);
    auto float_row = floats.begin();
    auto double_row = doubles.begin();
    while (float_row != floats.end() || double_row != doubles.end()) {
      constexpr double none = std::numeric_limits<double>::infinity();
      const double score = std::min(float_row == floats.end() ? none : static_cast<double>(float_row->score),
                                    double_row == doubles.end() ? none : double_row->score);
      double positives = 0, negatives = 0;
      const auto tie = [&](auto& row, const auto& rows) {
        for (; row != rows.end() && row->score == score; ++row) {
          if (row->weight > 0) positives += row->weight;
          else negatives -= row->weight;
        }
      };
      tie(float_row, floats);
      tie(double_row, doubles);
      f(positives, negatives);
    }
  }

  /// Every row as (score, weight), the weight of a negative below zero.
  at::Tensor pack() const {
    auto packed = ops::empty({2 * size()}, at::kDouble);                           // [2N]
    auto* to = packed.mutable_data_ptr<double>();
    const auto write = [&](const auto& row) {
      *to++ = row.score;
      *to++ = row.weight;
    };
    std::for_each(floats_.begin(), floats_.end(), write);
    std::for_each(doubles_.begin(), doubles_.end(), write);
    return packed;
  }

  /// Adds packed rows to those of the metric that a message calls `name`. Errors: ShapeError for half a row, NonFiniteError for a NaN.
  void merge(const at::Tensor& packed, std::string_view name) {
    const auto host = detail::packed_rows(packed, name);                                        // [2N]
    const auto from = detail::numbers(host);
    check<ShapeError>(from.size() % 2 == 0, name, ": a packed state has ", from.size(), " numbers; rows have two each");
    for (std::size_t i = 0; i < from.size(); i += 2) keep(from[i], from[i + 1]);
  }

 private:
  template <class Number> struct Row {
    Number score, weight;   // the weight of a negative is below zero
  };

  void keep(double score, double weight) {
    if (weight == 0) return;
    const Row<float> row{static_cast<float>(score), static_cast<float>(weight)};
    if (row.score == score && row.weight == weight) floats_.push_back(row);
    else doubles_.push_back({score, weight});
  }

  /// Bits that sort, as an unsigned number, in the order of the floating-point number.
  static std::uint32_t ordered_bits(float number) {
    const auto bits = std::bit_cast<std::uint32_t>(number);
    return bits >> 31 ? ~bits : bits | 1u << 31;
  }
  static std::uint64_t ordered_bits(double number) {
    const auto bits = std::bit_cast<std::uint64_t>(number);
    return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
  }

  /// By score, then by weight, so that sums over a tie are the same whatever order the rows came in. A radix sort: five times as
  /// quick as comparing. A byte that all rows share costs no pass. A few rows are compared, for they are not worth the counters.
  template <class Number> static std::vector<Row<Number>> sorted(std::vector<Row<Number>> rows) {
    if (rows.size() < 256) {
      std::sort(rows.begin(), rows.end(), [](const Row<Number>& a, const Row<Number>& b) {
        return a.score != b.score ? a.score < b.score : a.weight < b.weight;
      });
      return rows;
    }
    std::vector<Row<Number>> other(rows.size());
    for (const auto field : {&Row<Number>::weight, &Row<Number>::score}) {
      for (std::size_t shift = 0; shift < 8 * sizeof(Number); shift += 8) {
        const auto digit = [&](const Row<Number>& row) { return static_cast<std::size_t>(ordered_bits(row.*field) >> shift & 255); };
        std::array<std::size_t, 256> place{};
        for (const auto& row : rows) ++place[digit(row)];
        if (std::find(place.begin(), place.end(), rows.size()) != place.end()) continue;
        std::exclusive_scan(place.begin(), place.end(), place.begin(), std::size_t{0});
        for (const auto& row : rows) other[place[digit(row)]++] = row;
        rows.swap(other);
      }
    }
    return rows;
  }

  std::vector<Row<float>> floats_;     // rows that float32 holds exactly
  std::vector<Row<double>> doubles_;   // the others
  KeptKind kind_;
};

}  // namespace rookery
