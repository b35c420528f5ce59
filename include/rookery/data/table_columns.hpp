// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Columns of numbers, from the text of their cells: labels, weights, groups, dense columns.  Include cost: none.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/vocabulary.hpp>

namespace rookery::detail {

inline bool contains(const std::vector<std::string>& texts, std::string_view text) {
  return std::find(texts.begin(), texts.end(), text) != texts.end();
}

/// The label that a cell means.
inline float label_of(const LabelColumn& label, const Cell& cell) {
  if (!label.equals.empty()) return contains(label.equals, cell.text);
  const double number = number_of(cell);
  if (label.at_least) return number >= *label.at_least;
  if (label.above) return number > *label.above;
  if (label.at_most) return number <= *label.at_most;
  if (label.below) return number < *label.below;
  if (std::abs(number) > std::numeric_limits<float>::max()) cell.refuse("does not fit a float32 as the label");
  return static_cast<float>(number);
}

/// The weight that a cell means.
inline float weight_of(const Cell& cell) {
  const double number = number_of(cell);
  if (number < 0) cell.refuse("is a negative weight");
  if (number > std::numeric_limits<float>::max()) cell.refuse("does not fit a float32 as a weight");
  return static_cast<float>(number);
}

/// The group that a cell means.
inline std::int64_t group_of(const Cell& cell) {
  std::int64_t number = 0;
  const auto* end = cell.text.data() + cell.text.size();
  const auto [stop, error] = std::from_chars(cell.text.data(), end, number);
  return error == std::errc{} && stop == end ? number : static_cast<std::int64_t>(fnv1a(cell.text));
}

/// Training needs examples of both kinds where all labels of a column are 0 or 1, as those of a comparison are. Other numbers may be what
/// they like.
class LabelCheck {
 public:
  void add(float label, bool is_trained) {
    binary_ = binary_ && (label == 0 || label == 1);
    if (is_trained) seen_[label == 0 ? 0 : 1] = true;
  }
  /// Errors: DataError where a kind is missing among the training rows.
  void finish(std::string_view file, std::string_view column, std::int64_t training_rows) const {
    for (const int kind : {1, 0})
      check<DataError>(!binary_ || seen_[kind], file, ": column '", column, "': no ", kind == 1 ? "positive" : "negative",
                       " label among the ", training_rows, " training rows");
  }

 private:
  bool binary_ = true, seen_[2] = {};
};

/// The model's input for the number of a dense column, maybe not finite.
inline float dense_value(const DenseColumn& dense, double x) {
  if (dense.transform == DenseTransform::log1p) x = std::log1p(std::max(x, 0.0));
  if (dense.transform == DenseTransform::signed_log1p) x = std::copysign(std::log1p(std::abs(x)), x);
  const double value = (x - dense.subtract) / dense.divide;
  constexpr double most = std::numeric_limits<float>::max();
  return std::abs(value) <= most ? static_cast<float>(value) : std::numeric_limits<float>::quiet_NaN();
}

/// The model's input for a cell of a dense column.
inline float dense_of(const DenseColumn& dense, const Cell& cell) {
  const bool missing = contains(dense.missing_texts, cell.text);
  if (missing && !dense.missing)
    cell.refuse("is missing, and the schema gives no value for dense column '", name_of(dense), "' where it is missing");
  const float value = dense_value(dense, missing ? *dense.missing : number_of(cell));
  if (std::isnan(value)) cell.refuse("does not fit a float32 as dense column '", name_of(dense), "'");
  return value;
}

/// A dense column while its file is read.
class DenseBuilder {
 public:
  DenseBuilder(DenseColumn dense, std::size_t table) : dense_(std::move(dense)), data_{name_of(dense_), table, {}} {}

  void add(const Cell& cell) { data_.values.push_back(dense_of(dense_, cell)); }
  /// The row that stands for keys that a side table does not have.
  void add_missing() {
    check<ConfigError>(dense_.missing.has_value(), "dense column '", data_.name,
                       "': its side table lets unknown keys pass, so it needs a value for missing");
    data_.values.push_back(dense_value(dense_, *dense_.missing));
  }
  DenseData finish() { return std::move(data_); }

 private:
  DenseColumn dense_;
  DenseData data_;
};

}  // namespace rookery::detail
