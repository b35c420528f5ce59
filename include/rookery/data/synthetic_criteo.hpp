// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// SyntheticCriteo: click logs in Criteo's format whose true probabilities are known, so that the best possible AUC is known too.
//
//   const SyntheticCriteo clicks{{.seed = 7}};
//   const auto planted = clicks.write("test.tsv", 200'000, 50'000);       // lines 200,000 to 249,999 of an endless log
// The log-odds of a line are an intercept, one number for each id and one for each integer, of chosen variances: a model without tables
// cannot come near them. Torch-free.  Include cost: none.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/data/criteo_line.hpp>

namespace rookery {

/// The law of a synthetic log.
struct SyntheticCriteoOptions {
  std::uint64_t seed = 0;
  std::int64_t fewest_ids = 4, most_ids = 500;   // of the first and of the last id column; between them they grow geometrically
  double zipf = 1.05;                            // the k-th id of a column is as likely as k^-zipf
  double id_variance = 1.5;                      // of the log-odds, from the ids
  double integer_variance = 0.75;                // of the log-odds, from the integers
  double intercept = -1;                         // log-odds in the middle
};

/// The truth about some lines.
struct PlantedClicks {
  std::vector<double> probabilities;             // of a click, for each line
  std::vector<int> labels;                       // drawn from them
  double id_share = 0;                           // of the variance of the log-odds over these lines
};

/// Appends a line as it stands in a file, its end included.
inline void append_criteo_line(std::string& text, const CriteoLine& line, bool has_label = true) {
  char digits[24];
  const auto add = [&](auto number, int base) { text.append(digits, std::to_chars(digits, digits + sizeof digits, number, base).ptr); };
  if (has_label) add(line.label, 10), text += '\t';
  for (std::size_t i = 0; i < CriteoLine::num_integers; ++i, text += '\t')
    if (!line.integer_missing(i)) add(line.integers[i], 10);
  for (std::size_t i = 0; i < CriteoLine::num_ids; ++i) {
    if (!line.id_missing(i)) {
      char* end = std::to_chars(digits, digits + sizeof digits, line.ids[i], 16).ptr;
      text.append(static_cast<std::size_t>(8 - (end - digits)), '0').append(digits, end);
    }
    text += i + 1 < CriteoLine::num_ids ? '\t' : '\n';
  }
}

/// An endless log: line i is a function of the options and i alone.
///
/// A third of the id columns have an id that is written as a missing one; integers are missing in one line of twenty, are 0 or -1 in some,
/// and have long tails. A missing integer and a negative one count as 0, as they do for CriteoReader.
/// Errors: ConfigError for options that mean nothing.
class SyntheticCriteo {
 public:
  struct Line {
    CriteoLine line;
    double id_log_odds = 0, integer_log_odds = 0, probability = 0;
  };

  explicit SyntheticCriteo(const SyntheticCriteoOptions& options = {}) : options_(options) {
    check<ConfigError>(1 <= options.fewest_ids && options.fewest_ids <= options.most_ids, "SyntheticCriteo: fewest_ids ",
                       options.fewest_ids, " must be from 1 to most_ids, ", options.most_ids);
    check<ConfigError>(options.zipf >= 0 && options.id_variance >= 0 && options.integer_variance >= 0,
                       "SyntheticCriteo: zipf and the variances must not be negative");
    for (std::size_t i = 0; i < columns_.size(); ++i) make_column(i);
    for (std::size_t i = 0; i < integers_.size(); ++i) make_integer(i);
  }

  /// Ids of a column, from 0.
  std::int64_t num_ids(std::size_t column) const { return static_cast<std::int64_t>(columns_[column].up_to.size()); }

  Line line(std::int64_t index) const {
    Draws draws(options_.seed, static_cast<std::uint64_t>(index));
    Line drawn;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const auto& column = columns_[i];
      const auto found = std::ranges::upper_bound(column.up_to, draws.uniform() * column.up_to.back());
      const auto id = std::min(static_cast<std::size_t>(found - column.up_to.begin()), column.up_to.size() - 1);
      drawn.id_log_odds += column.log_odds[id];
      if (i % 3 == 0 && id == missing_id) drawn.line.missing |= std::uint64_t{1} << (CriteoLine::num_integers + i);
      else drawn.line.ids[i] = static_cast<std::uint32_t>(hash(i, id));
    }
    for (std::size_t i = 0; i < integers_.size(); ++i) {
      const auto value = draw_integer(i, draws);
      if (draws.uniform() < 0.05) drawn.line.missing |= std::uint64_t{1} << i;
      else drawn.line.integers[i] = value;
      drawn.integer_log_odds += integers_[i].slope * (seen(drawn.line.integers[i]) - integers_[i].mean);
    }
    const double log_odds = options_.intercept + drawn.id_log_odds + drawn.integer_log_odds;
    drawn.probability = 1 / (1 + std::exp(-log_odds));
    drawn.line.label = draws.uniform() < drawn.probability;
    return drawn;
  }

  /// Writes lines [first, first + count) and returns the truth about them. Errors: DataError where the file cannot be written.
  PlantedClicks write(const std::string& path, std::int64_t first, std::int64_t count) const {
    std::ofstream file(path, std::ios::binary);
    PlantedClicks planted;
    std::string text;
    Spread ids, all;
    for (auto index = first; index < first + count; ++index) {
      const auto drawn = line(index);
      append_criteo_line(text, drawn.line);
      planted.probabilities.push_back(drawn.probability);
      planted.labels.push_back(drawn.line.label);
      ids.add(drawn.id_log_odds);
      all.add(drawn.id_log_odds + drawn.integer_log_odds);
      if (text.size() < std::size_t{1} << 20 && index + 1 < first + count) continue;
      file.write(text.data(), static_cast<std::streamsize>(text.size()));
      text.clear();
    }
    file.close();
    check<DataError>(file.good(), path, ": the file cannot be written");
    planted.id_share = all.variance() > 0 ? ids.variance() / all.variance() : 0;
    return planted;
  }

 private:
  static constexpr std::size_t missing_id = 2;   // the third most frequent

  /// Random numbers of one line.
  class Draws {
   public:
    Draws(std::uint64_t seed, std::uint64_t line) : state_(mix64(mix64(seed) ^ line)) {}
    std::uint64_t bits() { return mix64(state_ += 0x9e3779b97f4a7c15ULL); }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    double normal() {                            // Box and Muller
      const double radius = std::sqrt(-2 * std::log(1 - uniform()));
      return radius * std::cos(2 * std::numbers::pi * uniform());
    }

   private:
    std::uint64_t state_;
  };

  /// Mean and variance of a weighted sample.
  class Spread {
   public:
    void add(double x, double weight = 1) {
      total_ += weight;
      const double from = x - mean_;
      mean_ += from * weight / total_;
      squares_ += weight * from * (x - mean_);
    }
    double mean() const { return mean_; }
    double variance() const { return total_ > 0 ? squares_ / total_ : 0; }

   private:
    double total_ = 0, mean_ = 0, squares_ = 0;
  };

  struct Column {
    std::vector<double> up_to;                   // sum of the likelihoods of the ids up to this one
    std::vector<double> log_odds;                // of each id
  };
  struct Integer {
    double mean = 0, slope = 0;                  // log-odds = slope * (log(1 + max(x, 0)) - mean)
  };

  std::uint64_t hash(std::size_t column, std::uint64_t id) const {
    return mix64(mix64(mix64(options_.seed + 1) + column) + id);
  }
  static double seen(std::int64_t x) { return x > 0 ? std::log1p(static_cast<double>(x)) : 0; }

  void make_column(std::size_t i) {
    auto& column = columns_[i];
    const double grown = std::pow(static_cast<double>(options_.most_ids) / static_cast<double>(options_.fewest_ids),
                                  static_cast<double>(i) / static_cast<double>(columns_.size() - 1));
    const auto count = std::llround(static_cast<double>(options_.fewest_ids) * grown);
    Draws draws(options_.seed + 2, i);
    Spread spread;
    double sum = 0;
    for (std::int64_t id = 0; id < count; ++id) {
      const double likelihood = std::pow(static_cast<double>(id + 1), -options_.zipf);
      column.up_to.push_back(sum += likelihood);
      column.log_odds.push_back(draws.normal());
      spread.add(column.log_odds.back(), likelihood);
    }
    const double wanted = options_.id_variance / static_cast<double>(columns_.size());
    const double scale = spread.variance() > 0 ? std::sqrt(wanted / spread.variance()) : 0;
    for (auto& x : column.log_odds) x = (x - spread.mean()) * scale;
  }

  /// An integer with a tail whose length depends on the column; some are 0 or -1.
  static std::int64_t draw_integer(std::size_t i, Draws& draws) {
    const double x = std::exp(0.5 + 0.25 * static_cast<double>(i) + 1.2 * draws.normal());
    return static_cast<std::int64_t>(std::min(x, 1e9)) - (i == 1 ? 2 : 0);
  }

  void make_integer(std::size_t i) {
    Draws draws(options_.seed + 3, i);
    Spread spread;
    for (int sample = 0; sample < 4096; ++sample) {
      const auto x = draw_integer(i, draws);
      spread.add(draws.uniform() < 0.05 ? 0 : seen(x));
    }
    const double wanted = options_.integer_variance / static_cast<double>(integers_.size());
    integers_[i] = {spread.mean(), (draws.bits() & 1 ? 1 : -1) * std::sqrt(wanted / spread.variance())};
  }

  SyntheticCriteoOptions options_;
  std::array<Column, CriteoLine::num_ids> columns_;
  std::array<Integer, CriteoLine::num_integers> integers_;
};

}  // namespace rookery
