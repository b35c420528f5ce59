// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// One column each, from the text of its cells to numbers: the label, a dense column, an id column.
//
// Each is given its cells in the order of the file.  Include cost: none.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/vocabulary.hpp>

namespace rookery::detail {

inline bool contains(const std::vector<std::string>& texts, std::string_view text) { return std::ranges::find(texts, text) != texts.end(); }

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

/// The model's input for the number of a dense column, maybe not finite.
inline float dense_value(const DenseColumn& dense, double x) {
  if (dense.transform == DenseTransform::log1p) x = std::log1p(std::max(x, 0.0));
  if (dense.transform == DenseTransform::signed_log1p) x = std::copysign(std::log1p(std::abs(x)), x);
  const double value = (x - dense.subtract) / dense.divide;
  constexpr double most = std::numeric_limits<float>::max();
  return std::abs(value) <= most ? static_cast<float>(value) : std::numeric_limits<float>::quiet_NaN();
}

/// A dense column while its file is read.
class DenseBuilder {
 public:
  DenseBuilder(DenseColumn dense, std::size_t table) : dense_(std::move(dense)), data_{name_of(dense_), table, {}} {}

  void add(const Cell& cell) {
    const bool missing = contains(dense_.missing_texts, cell.text);
    if (missing && !dense_.missing)
      cell.refuse("is missing, and the schema gives no value for dense column '", data_.name, "' where it is missing");
    const float value = dense_value(dense_, missing ? *dense_.missing : number_of(cell));
    if (std::isnan(value)) cell.refuse("does not fit a float32 as dense column '", data_.name, "'");
    data_.values.push_back(value);
  }
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

/// The first `count` characters of a UTF-8 text, all of them for 0.
inline std::string_view first_characters(std::string_view text, std::int64_t count) {
  if (count == 0) return text;
  const auto starts_character = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  std::size_t end = 0;
  for (; end < text.size(); ++end)
    if (starts_character(text[end]) && count-- == 0) break;
  return text.substr(0, end);
}

/// The bucket of a number as a token.
inline std::string bucket_token(const Bucket& bucket, const Cell& cell) {
  const double number = number_of(cell), index = std::floor(number / bucket.width);
  if (std::abs(index) > 0x1p53) cell.refuse("is too large for buckets of ", bucket.width);
  return bucket.zero_apart && number == 0 ? "0" : std::to_string(static_cast<std::int64_t>(index) + (bucket.zero_apart ? 1 : 0));
}

/// An id column while its file is read: first codes of tokens, or rows where no vocabulary is needed; -1 for what has no row.
class IdBuilder {
 public:
  IdBuilder(IdColumn id, std::size_t table) : id_(std::move(id)), unknown_(unknown_of(id_)), table_(table) { offsets_.push_back(0); }

  void add(const Cell& cell) {
    if (contains(id_.missing_texts, cell.text)) {
      add_unknown(cell, "is missing");
    } else if (id_.separator.empty()) {
      add_token(cell);
    } else {
      for (std::size_t at = 0; at <= cell.text.size();) {
        const auto end = std::min(cell.text.find(id_.separator, at), cell.text.size());
        if (end > at) add_token({cell.file, cell.line, cell.column, cell.text.substr(at, end - at)});
        at = end + id_.separator.size();
      }
    }
    offsets_.push_back(static_cast<std::int64_t>(ids_.size()));
    if (refuses_later()) places_.push_back({cell.file, cell.line, cell.column, {}});
  }
  /// The row that stands for keys that a side table does not have.
  void add_missing() {
    check<ConfigError>(unknown_ != UnknownIds::refuse, "id column '", name(),
                       "': its side table lets unknown keys pass, so unknown must be own_row or empty_bag");
    ids_.push_back(-1);
    offsets_.push_back(static_cast<std::int64_t>(ids_.size()));
    has_missing_row_ = true;
  }

  /// The column as rows of its embedding table; `is_trained(row)` says which rows of its own table the training part reaches.
  template <class IsTrained> IdData finish(IsTrained&& is_trained) {
    auto count = id_.num_embeddings;
    if (has_vocabulary()) {
      std::vector<bool> used(static_cast<std::size_t>(tokens_.size()), id_.rows == IdRows::whole_file);
      if (id_.rows == IdRows::training_part)
        for_each_id([&](std::size_t row, std::int64_t id) {
          if (id >= 0 && is_trained(row)) used[static_cast<std::size_t>(id)] = true;
        });
      count = std::ranges::count(used, true);
      check<DataError>(count > 0 || unknown_ == UnknownIds::own_row, "id column '", name(), "': the training part has no token of it");
      const auto rows = tokens_.sorted_rows([&](std::int64_t code) { return used[static_cast<std::size_t>(code)]; });
      for_each_id([&](std::size_t row, std::int64_t& id) {
        const auto code = std::exchange(id, id < 0 ? -1 : rows[static_cast<std::size_t>(id)]);
        if (id < 0 && refuses_later()) refuse_at(row, code);
      });
    }
    const auto unknown = std::ranges::count(ids_, -1) - (has_missing_row_ ? 1 : 0);
    if (unknown_ == UnknownIds::own_row) std::ranges::replace(ids_, std::int64_t{-1}, count++);
    if (unknown_ == UnknownIds::empty_bag) drop_unknown();
    const bool one_each = id_.separator.empty() && ids_.size() + 1 == offsets_.size();
    if (one_each) offsets_ = {};
    return {{name(), count, !id_.separator.empty(), unknown}, table_, std::move(ids_), std::move(offsets_)};
  }

 private:
  const std::string& name() const { return name_of(id_); }
  bool has_vocabulary() const { return id_.rows == IdRows::whole_file || id_.rows == IdRows::training_part; }
  bool refuses_later() const { return id_.rows == IdRows::training_part && unknown_ == UnknownIds::refuse; }

  void add_token(const Cell& cell) {
    const auto bucket =
        id_.bucket ? bucket_token(*id_.bucket, {cell.file, cell.line, cell.column, first_characters(cell.text, id_.first_characters)}) : "";
    const auto token = id_.bucket ? std::string_view(bucket) : first_characters(cell.text, id_.first_characters);
    if (id_.rows == IdRows::hashed) {
      ids_.push_back(hashed_row(token, id_.seed, id_.num_embeddings));
    } else if (id_.rows == IdRows::number) {
      const auto number = integer_of({cell.file, cell.line, cell.column, token});
      if (0 <= number && number < id_.num_embeddings)
        ids_.push_back(number);
      else
        add_unknown(cell, concat("is not a row of id column '", name(), "', which has rows 0 to ", id_.num_embeddings - 1));
    } else {
      ids_.push_back(tokens_.add(token));
    }
  }

  void add_unknown(const Cell& cell, std::string_view why) {
    if (unknown_ == UnknownIds::refuse) cell.refuse(why, "; to accept it, set unknown = own_row or empty_bag");
    ids_.push_back(-1);
  }

  [[noreturn]] void refuse_at(std::size_t row, std::int64_t code) const {
    Cell cell = places_[row];
    cell.text = tokens_[code];
    cell.refuse("does not occur in the training part; to accept it, set unknown = own_row or empty_bag");
  }

  template <class Fn> void for_each_id(Fn&& fn) {
    for (std::size_t row = 0; row + 1 < offsets_.size(); ++row)
      for (auto i = offsets_[row]; i < offsets_[row + 1]; ++i) fn(row, ids_[static_cast<std::size_t>(i)]);
  }

  void drop_unknown() {
    std::size_t kept = 0;
    auto begin = offsets_[0];
    for (std::size_t row = 0; row + 1 < offsets_.size(); ++row) {
      for (const auto end = offsets_[row + 1]; begin < end; ++begin)
        if (const auto id = ids_[static_cast<std::size_t>(begin)]; id >= 0) ids_[kept++] = id;
      offsets_[row + 1] = static_cast<std::int64_t>(kept);
    }
    ids_.resize(kept);
  }

  IdColumn id_;
  UnknownIds unknown_;
  std::size_t table_;
  Tokens tokens_;
  std::vector<std::int64_t> ids_, offsets_;
  bool has_missing_row_ = false;
  std::vector<Cell> places_;  // of each row, kept only where an unknown token is found after reading
};

}  // namespace rookery::detail
