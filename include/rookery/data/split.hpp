// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Which rows of a table train, validate and test.  Include cost: none.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/shuffle.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

/// The columns that a split looks at, in the order in which SplitBuilder::add wants their cells.
inline std::vector<std::string> columns_of(const Split& split) {
  if (const auto* order = std::get_if<SplitByOrder>(&split)) return order->columns;
  if (const auto* column = std::get_if<SplitByColumn>(&split)) return {column->column};
  std::vector<std::string> columns;
  if (const auto* hash = std::get_if<SplitByHash>(&split))
    for (const auto& term : hash->terms) columns.push_back(term.column);
  return columns;
}

namespace detail {

/// An ISO date, 2020-01-31 or 2020-01-31 23:59:59 (T in place of the space too), as a number that grows with time: its digits.
inline std::optional<double> date_number(std::string_view text) {
  constexpr std::string_view form = "0000-00-00 00:00:00";
  if (text.size() != form.size() && text.size() != form.find(' ')) return {};
  double number = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool digit = '0' <= text[i] && text[i] <= '9';
    if (digit != (form[i] == '0')) return {};
    if (digit) number = 10 * number + (text[i] - '0');
    else if (text[i] != form[i] && !(form[i] == ' ' && text[i] == 'T')) return {};
  }
  return number;
}

/// Puts the rows of a table into parts while its file is read.
class SplitBuilder {
 public:
  using Parts = std::array<std::vector<std::int64_t>, 3>;

  explicit SplitBuilder(Split split) : split_(std::move(split)) {
    if (const auto* hash = std::get_if<SplitByHash>(&split_)) list_residues(*hash);
  }

  using Membership = std::array<bool, 3>;  // in train, validation, test

  /// Whether the parts of a row can be told from its cells alone.
  bool is_by_row() const { return std::holds_alternative<SplitByHash>(split_) || std::holds_alternative<SplitByColumn>(split_); }
  /// The parts that a row is in, for such a split.
  Membership parts_of(std::span<const Cell> cells) const {
    if (const auto* hash = std::get_if<SplitByHash>(&split_)) return residue(*hash, cells);
    return text(std::get<SplitByColumn>(split_), cells[0]);
  }

  /// The next row, with its cells of the columns that the split looks at.
  void add(std::span<const Cell> cells) {
    if (is_by_row()) put(parts_of(cells));
    if (std::holds_alternative<SplitByOrder>(split_))
      for (std::size_t column = 0; column < cells.size(); ++column) sort_keys_.push_back(sort_key(column, cells[column]));
    ++rows_;
  }

  /// Each part's rows in the order of the file. Errors: ConfigError where nothing is left to train on, if there need be.
  Parts finish(bool needs_training = true) {
    if (const auto* by = std::get_if<SplitByOrder>(&split_)) cut(*by, sorted(by->columns.size()));
    if (const auto* by = std::get_if<SplitByFraction>(&split_)) cut(*by, shuffled(by->seed));
    check<ConfigError>(!needs_training || !parts_[0].empty(), "split: no row of ", rows_, " is left to train on");
    return std::move(parts_);
  }

 private:
  void list_residues(const SplitByHash& split) {
    residues_.resize(static_cast<std::size_t>(split.modulus));
    const std::array lists{&split.train, &split.validation, &split.test};
    for (std::size_t part = 0; part < lists.size(); ++part)
      for (const auto residue : *lists[part]) residues_[static_cast<std::size_t>(residue)][part] = true;
  }

  void put(const Membership& member) {
    for (std::size_t part = 0; part < member.size(); ++part)
      if (member[part]) parts_[part].push_back(rows_);
  }

  const Membership& residue(const SplitByHash& split, std::span<const Cell> cells) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const auto& term = split.terms[i];
      sum += (static_cast<std::uint64_t>(integer_of(cells[i])) + term.add) * term.multiplier;
    }
    return residues_[((sum & 0xffffffffU) >> split.shift) % static_cast<std::uint64_t>(split.modulus)];
  }

  static Membership text(const SplitByColumn& split, const Cell& cell) {
    const Membership member{contains(split.train, cell.text), contains(split.validation, cell.text), contains(split.test, cell.text)};
    if (!member[0] && !member[1] && !member[2]) cell.refuse("is in no part of the split; add it to train, validation or test");
    return member;
  }

  /// The number that a cell is sorted by. A column holds numbers, or dates of one length.
  double sort_key(std::size_t column, const Cell& cell) {
    const auto date = date_number(cell.text);
    if (rows_ == 0) date_lengths_.push_back(date ? cell.text.size() : 0);
    const auto length = date_lengths_[column];
    if (length == 0) return number_of(cell, rows_ == 0 ? " or an ISO date such as 2020-01-31" : "");
    if (!date || cell.text.size() != length) cell.refuse("is not a date of ", length, " characters, as the first row of the column has");
    return *date;
  }

  std::vector<std::int64_t> sorted(std::size_t keys) const {
    std::vector<std::int64_t> order(static_cast<std::size_t>(rows_));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    const auto width = static_cast<std::int64_t>(keys);
    const auto key = [&](std::int64_t row) { return sort_keys_.begin() + row * width; };
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return std::lexicographical_compare(key(a), key(a) + width, key(b), key(b) + width);
    });
    return order;
  }

  std::vector<std::int64_t> shuffled(std::uint64_t seed) const {
    ShuffledRows shuffled(rows_, seed, 0, rows_);
    std::vector<std::int64_t> order(static_cast<std::size_t>(rows_));
    std::generate(order.begin(), order.end(), [&] { return shuffled.next(); });
    return order;
  }

  std::int64_t rows_of(const Share& share, std::string_view part) const {
    if (const auto* fraction = std::get_if<double>(&share)) return std::llround(*fraction * static_cast<double>(rows_));
    const auto rows = std::get<std::int64_t>(share);
    check<ConfigError>(rows <= rows_, "split: ", part, " = ", rows, " rows, but the table has ", rows_);
    return rows;
  }

  template <class By> void cut(const By& by, std::vector<std::int64_t> order) {
    const auto train = rows_of(by.train, "train");
    auto validation = rows_of(by.validation, "validation");
    const auto room = by.validation_in_train ? train : rows_ - train;
    if (std::holds_alternative<double>(by.validation) && !by.validation_in_train)
      validation = std::min(validation, room);  // two shares, rounded
    check<ConfigError>(validation <= room, "split: validation = ", validation, " rows, but only ", room, " are there for it");
    const auto first = by.validation_in_train ? train - validation : train, rest = first + validation;
    const auto rows = [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int64_t> part(order.begin() + begin, order.begin() + end);
      std::sort(part.begin(), part.end());
      return part;
    };
    parts_ = {rows(0, train), rows(first, rest), rows(rest, rows_)};
  }

  Split split_;
  Parts parts_;
  std::int64_t rows_ = 0;
  std::vector<double> sort_keys_;           // [row][column]
  std::vector<std::size_t> date_lengths_;  // of each column; 0: numbers
  std::vector<Membership> residues_;
};

}  // namespace detail

}  // namespace rookery
