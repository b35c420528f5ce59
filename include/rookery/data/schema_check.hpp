// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What is wrong with a schema before any file is opened. Names of columns are checked by read_table, which knows the headers.
//
// Include cost: none.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

/// The name that a column is known by: its own, else that of its column in the file.
template <class Column> const std::string& name_of(const Column& column) { return column.name.empty() ? column.column : column.name; }

/// What an id column does with tokens that have no row.
inline UnknownIds unknown_of(const IdColumn& id) {
  return id.unknown.value_or(id.rows == IdRows::training_part ? UnknownIds::own_row : UnknownIds::refuse);
}

namespace detail {

inline void check_share(const Share& share, std::string_view part) {
  if (const auto* fraction = std::get_if<double>(&share))
    check<ConfigError>(0 <= *fraction && *fraction <= 1, "split: ", part, " = ", *fraction,
                       " must be a share from 0 to 1; a number of rows is an integer");
  else
    check<ConfigError>(std::get<std::int64_t>(share) >= 0, "split: ", part, " = ", std::get<std::int64_t>(share), " rows is negative");
}

inline void check_hash(const SplitByHash& split) {
  check<ConfigError>(!split.terms.empty(), "split by hash: no terms are given");
  for (const auto& term : split.terms) check<ConfigError>(!term.column.empty(), "split by hash: a term has no column");
  check<ConfigError>(0 <= split.shift && split.shift < 32, "split by hash: shift ", split.shift, " must be from 0 to 31");
  check<ConfigError>(0 < split.modulus && split.modulus <= 1'000'000, "split by hash: modulus ", split.modulus,
                     " must be from 1 to 1000000");
  std::vector<bool> covered(static_cast<std::size_t>(split.modulus));
  for (const auto* residues : {&split.train, &split.validation, &split.test})
    for (const auto residue : *residues) {
      check<ConfigError>(0 <= residue && residue < split.modulus, "split by hash: residue ", residue, " does not occur with modulus ",
                         split.modulus);
      covered[static_cast<std::size_t>(residue)] = true;
    }
  const auto open = std::find(covered.begin(), covered.end(), false) - covered.begin();
  check<ConfigError>(open == split.modulus, "split by hash: residue ", open, " is in no part; add it to train, validation or test");
}

}  // namespace detail

/// Checks what of a schema needs no file, here for each of its entries, below for all of it.
/// Errors: ConfigError, one sentence that says which entry and what to write.
inline void check_schema(const TableFile& file, std::string_view where) {
  check<ConfigError>(!file.paths.empty(), where, ": no path is given");
  std::set<std::string> paths;
  for (const auto& path : file.paths) check<ConfigError>(paths.insert(path).second, where, ": path '", path, "' is given twice");
  check<ConfigError>(!file.separator.empty(), where, ": the separator is empty");
  check<ConfigError>(file.quote.size() <= 1, where, ": quote '", file.quote, "' must be one character or empty");
  check<ConfigError>(file.has_header || !file.columns.empty(), where, ": without a header, columns must name the columns");
  check<ConfigError>(file.name_ends_at.size() <= 1, where, ": name_ends_at '", file.name_ends_at, "' must be one character or empty");
}

inline void check_schema(const LabelColumn& label) {
  check<ConfigError>(!label.column.empty(), "label: no column is given; data without labels is read with has_label = false");
  const int comparisons =
      label.at_least.has_value() + label.above.has_value() + label.at_most.has_value() + label.below.has_value() + !label.equals.empty();
  check<ConfigError>(comparisons <= 1, "label: ", comparisons, " comparisons are given; one is enough");
}

/// The labels that a schema reads, whichever way they are given; none without has_label.
inline std::vector<LabelColumn> labels_of(const TableSchema& schema) {
  if (!schema.has_label) return {};
  return schema.labels.empty() ? std::vector<LabelColumn>{schema.label} : schema.labels;
}

inline void check_schema(const DenseColumn& dense) {
  check<ConfigError>(!dense.column.empty(), "dense column: no column is given");
  check<ConfigError>(std::isfinite(dense.subtract) && std::isfinite(dense.divide) && dense.divide != 0, "dense column '", name_of(dense),
                     "': (x - ", dense.subtract, ") / ", dense.divide, " is not a number");
}

inline void check_schema(const IdColumn& id) {
  check<ConfigError>(!id.column.empty(), "id column: no column is given");
  const auto& name = name_of(id);
  const bool sized = id.rows == IdRows::hashed || id.rows == IdRows::number;
  check<ConfigError>(!sized || id.num_embeddings > 0, "id column '", name, "': num_embeddings ", id.num_embeddings, " must be at least 1");
  check<ConfigError>(id.num_embeddings < std::numeric_limits<std::int64_t>::max(), "id column '", name, "': num_embeddings ",
                     id.num_embeddings, " leaves no room for own_row");
  check<ConfigError>(sized || id.num_embeddings == 0, "id column '", name,
                     "': num_embeddings is given, but its rows come from the vocabulary; "
                     "leave it out, or say rows = hashed or number");
  check<ConfigError>(id.rows == IdRows::hashed || id.seed == 0, "id column '", name, "': seed is given, but only hashed rows use one");
  check<ConfigError>(id.first_characters >= 0, "id column '", name, "': first_characters ", id.first_characters, " is negative");
  check<ConfigError>(!id.bucket || (id.bucket->width > 0 && std::isfinite(id.bucket->width)), "id column '", name, "': the bucket's width ",
                     id.bucket ? id.bucket->width : 0, " must be above 0");
  if (!id.bucket || id.bucket->boundaries.empty()) return;
  const auto& boundaries = id.bucket->boundaries;
  check<ConfigError>(id.bucket->width == 1 && !id.bucket->zero_apart, "id column '", name,
                     "': a bucket has either boundaries or width and zero_apart");
  const auto begin = boundaries.begin(), end = boundaries.end();
  check<ConfigError>(std::all_of(begin, end, [](double x) { return std::isfinite(x); }) &&
                         std::adjacent_find(begin, end, [](double a, double b) { return a >= b; }) == end,
                     "id column '", name, "': the bucket's boundaries ", boundaries, " must be finite and increasing");
}

/// No two columns of a list have the same name.
template <class Columns> void check_distinct_names(const Columns& columns, std::string_view kind) {
  std::set<std::string> seen;
  for (const auto& column : columns)
    check<ConfigError>(seen.insert(name_of(column)).second, kind, " '", name_of(column), "' is given twice; give one of them another name");
}

inline void check_schema(const SideTable& side) {
  check<ConfigError>(!side.name.empty(), "side table: no name is given");
  check<ConfigError>(!side.key.empty(), "side table '", side.name, "': no key is given");
  check_schema(side.file, concat("side table '", side.name, "'"));
}

inline void check_schema(const Split& split) {
  std::visit(
      [](const auto& by) {
        using By = std::decay_t<decltype(by)>;
        if constexpr (std::is_same_v<By, SplitByHash>) {
          detail::check_hash(by);
        } else if constexpr (std::is_same_v<By, SplitByColumn>) {
          check<ConfigError>(!by.column.empty(), "split by column: no column is given");
        } else {
          detail::check_share(by.train, "train");
          detail::check_share(by.validation, "validation");
          const auto *train = std::get_if<double>(&by.train), *validation = std::get_if<double>(&by.validation);
          const bool fits = !train || !validation || (by.validation_in_train ? *validation <= *train : *train + *validation <= 1 + 1e-9);
          check<ConfigError>(fits, "split: validation = ", validation ? *validation : 0, " does not fit ",
                             by.validation_in_train ? "in" : "beside", " train = ", train ? *train : 0);
          if constexpr (std::is_same_v<By, SplitByOrder>) check<ConfigError>(!by.columns.empty(), "split by order: no columns are given");
        }
      },
      split);
}

inline void check_schema(const TableSchema& schema) {
  check_schema(schema.file, "file");
  check<ConfigError>(schema.labels.empty() || schema.label.column.empty(), "schema: label and labels are both given; one is enough");
  for (const auto& label : labels_of(schema)) check_schema(label);
  check<ConfigError>(!schema.dense.empty() || !schema.ids.empty(),
                     "schema: neither dense nor id columns are given; a model needs at least one");
  for (const auto& dense : schema.dense) check_schema(dense);
  for (const auto& id : schema.ids) check_schema(id);
  check_distinct_names(schema.labels, "label");
  check_distinct_names(schema.dense, "dense column");
  check_distinct_names(schema.ids, "id column");
  std::set<std::string> tables;
  for (const auto& side : schema.side_tables) {
    check_schema(side);
    check<ConfigError>(tables.insert(side.name).second, "side table '", side.name, "' is given twice");
  }
  check_schema(schema.split);
}

}  // namespace rookery
