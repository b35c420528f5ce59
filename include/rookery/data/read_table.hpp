// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// read_table: from a schema to a Table in memory. Side tables first, then the main one, joined row by row.
//
// Torch-free.  Include cost: none.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/suggest.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/table_text.hpp>
#include <rookery/data/vocabulary.hpp>

namespace rookery {

namespace detail {

/// Where a column is: in which table (0: the main one), and which of its columns.
struct Place {
  std::size_t table = 0, column = 0;
};

inline std::optional<std::size_t> index_in(const std::vector<std::string>& columns, std::string_view name) {
  const auto found = std::ranges::find(columns, name);
  return found == columns.end() ? std::optional<std::size_t>() : static_cast<std::size_t>(found - columns.begin());
}

/// Reads one schema's files into one Table.
class TableLoader {
 public:
  explicit TableLoader(const TableSchema& schema) : schema_(checked(schema)), split_(schema.split) {
    tables_.emplace_back(schema.file);
    for (const auto& side : schema.side_tables) tables_.emplace_back(side.file);
    for (const auto& dense : schema.dense) {
      dense_places_.push_back(find(dense.column, "dense column"));
      dense_.emplace_back(dense, dense_places_.back().table);
    }
    for (const auto& id : schema.ids) {
      id_places_.push_back(find(id.column, "id column"));
      ids_.emplace_back(id, id_places_.back().table);
    }
  }

  Table load() {
    for (std::size_t side = 0; side < schema_.side_tables.size(); ++side) read_side(side);
    read_main();
    columns_.parts = split_.finish();
    check_labels();
    for (auto& dense : dense_) columns_.dense.push_back(dense.finish());
    const auto trained = trained_rows();
    for (std::size_t i = 0; i < ids_.size(); ++i)
      columns_.ids.push_back(ids_[i].finish([&](std::size_t row) { return trained[id_places_[i].table][row]; }));
    return Table(std::move(columns_));
  }

 private:
  static const TableSchema& checked(const TableSchema& schema) {
    check_schema(schema);
    return schema;
  }

  /// The column of a name: the main table's, else the side tables', else "table.column".
  Place find(const std::string& name, std::string_view use) const {
    std::vector<std::size_t> holders;
    for (std::size_t table = 0; table < tables_.size() && (table <= 1 || holders != std::vector<std::size_t>{0}); ++table)
      if (index_in(tables_[table].columns(), name)) holders.push_back(table);
    if (holders.size() > 1 && holders[0] != 0)
      fail<ConfigError>(use, " '", name, "' is in several side tables; write '", side_name(holders[0]), ".", name, "' or '",
                        side_name(holders[1]), ".", name, "'");
    if (!holders.empty()) return {holders[0], *index_in(tables_[holders[0]].columns(), name)};
    for (std::size_t table = 1; table < tables_.size(); ++table)
      if (const auto prefix = side_name(table) + "."; name.starts_with(prefix))
        return {table, column_of(table, name.substr(prefix.size()), use)};
    std::vector<std::string> all;
    for (const auto& table : tables_) all.insert(all.end(), table.columns().begin(), table.columns().end());
    fail<ConfigError>(use, " '", name, "': there is no such column in ", paths(), suggestion(name, all));
  }

  /// The column of a name in one table.
  std::size_t column_of(std::size_t table, std::string_view name, std::string_view use) const {
    const auto& columns = tables_[table].columns();
    const auto index = index_in(columns, name);
    if (!index) fail<ConfigError>(use, " '", name, "': there is no such column in ", tables_[table].path(), suggestion(name, columns));
    return *index;
  }

  const std::string& side_name(std::size_t table) const { return schema_.side_tables[table - 1].name; }
  std::string paths() const {
    std::string joined;
    for (const auto& table : tables_) joined += (joined.empty() ? "" : ", ") + table.path();
    return joined;
  }

  /// Gives a record's cells to the columns that are read from its table.
  template <class CellOf> void add_record(std::size_t table, CellOf&& cell_of) {
    for (std::size_t i = 0; i < dense_.size(); ++i)
      if (dense_places_[i].table == table) dense_[i].add(cell_of(dense_places_[i].column));
    for (std::size_t i = 0; i < ids_.size(); ++i)
      if (id_places_[i].table == table) ids_[i].add(cell_of(id_places_[i].column));
  }

  void read_side(std::size_t side) {
    const auto table = side + 1;
    auto& text = tables_[table];
    auto& keys = keys_.emplace_back();
    const auto key = column_of(table, schema_.side_tables[side].key, concat("side table '", side_name(table), "', key"));
    text.for_each_record([&](std::string_view path, std::int64_t line, std::span<const std::string_view> fields) {
      const auto cell_of = [&](std::size_t column) { return Cell{path, line, text.columns()[column], fields[column]}; };
      const auto row = keys.size();
      if (keys.add(fields[key]) != row) cell_of(key).refuse("is there twice; it is the key of side table '", side_name(table), "'");
      add_record(table, cell_of);
    });
    if (schema_.side_tables[side].unknown == UnknownKeys::refuse) return;
    for (std::size_t i = 0; i < dense_.size(); ++i)
      if (dense_places_[i].table == table) dense_[i].add_missing();
    for (std::size_t i = 0; i < ids_.size(); ++i)
      if (id_places_[i].table == table) ids_[i].add_missing();
  }

  /// The row of side table `side` whose key a cell holds; the row after its last for a key that it lacks and may lack.
  std::int64_t row_of_key(std::size_t side, const Cell& cell) const {
    const auto row = keys_[side].find(cell.text);
    if (row >= 0) return row;
    if (schema_.side_tables[side].unknown == UnknownKeys::refuse)
      cell.refuse("is not a key of side table '", schema_.side_tables[side].name, "' (", tables_[side + 1].path(),
                  "); to accept it, set unknown = missing");
    return keys_[side].size();
  }

  void read_main() {
    auto& text = tables_[0];
    const auto label = column_of(0, schema_.label.column, "label");
    columns_.joins.resize(schema_.side_tables.size());
    std::vector<std::size_t> join_columns, split_columns;
    for (const auto& side : schema_.side_tables)
      join_columns.push_back(column_of(0, side.column.empty() ? side.key : side.column, concat("side table '", side.name, "', column")));
    constexpr auto number = ~std::size_t{0}, file = number - 1;  // the two columns that no file has
    for (const auto& name : columns_of(schema_.split))
      split_columns.push_back(name == row_number ? number : name == file_path ? file : column_of(0, name, "split"));
    std::vector<Cell> split_cells;
    char digits[20];
    text.for_each_record([&](std::string_view path, std::int64_t line, std::span<const std::string_view> fields) {
      const auto cell_of = [&](std::size_t column) {
        if (column == file) return Cell{path, line, file_path, path};
        if (column != number) return Cell{path, line, text.columns()[column], fields[column]};
        return Cell{path, line, row_number, {digits, std::to_chars(digits, digits + sizeof digits, columns_.labels.size()).ptr}};
      };
      split_cells.clear();
      for (const auto column : split_columns) split_cells.push_back(cell_of(column));
      split_.add(split_cells);
      columns_.labels.push_back(label_of(schema_.label, cell_of(label)));
      for (std::size_t side = 0; side < join_columns.size(); ++side)
        columns_.joins[side].push_back(row_of_key(side, cell_of(join_columns[side])));
      add_record(0, cell_of);
    });
  }

  /// Training needs examples of both kinds where all labels of the table are 0 or 1, as those of a comparison are. Other numbers may be
  /// what they like.
  void check_labels() const {
    if (!std::ranges::all_of(columns_.labels, [](float label) { return label == 0 || label == 1; })) return;
    const auto label = [&](std::int64_t row) { return columns_.labels[static_cast<std::size_t>(row)]; };
    const auto& train = columns_.parts[0];
    for (const float only : {0.0F, 1.0F})
      if (std::ranges::all_of(train, [&](std::int64_t row) { return label(row) == only; }))
        fail<DataError>(tables_[0].path(), ": column '", schema_.label.column, "': no ", only == 0 ? "positive" : "negative",
                        " label among the ", train.size(), " training rows");
  }

  /// [table][row]: whether a row of the training part reaches it.
  std::vector<std::vector<bool>> trained_rows() const {
    std::vector<std::vector<bool>> trained{std::vector<bool>(columns_.labels.size())};
    for (const auto& keys : keys_) trained.emplace_back(static_cast<std::size_t>(keys.size()) + 1);
    for (const auto row : columns_.parts[0]) {
      trained[0][static_cast<std::size_t>(row)] = true;
      for (std::size_t side = 0; side < keys_.size(); ++side)
        trained[side + 1][static_cast<std::size_t>(columns_.joins[side][static_cast<std::size_t>(row)])] = true;
    }
    return trained;
  }

  const TableSchema& schema_;
  std::deque<TableText> tables_;  // the main one, then the side tables
  std::vector<Place> dense_places_, id_places_;
  std::vector<DenseBuilder> dense_;
  std::vector<IdBuilder> ids_;
  SplitBuilder split_;
  std::vector<Tokens> keys_;  // of each side table; the code of a key is its row
  Table::Columns columns_;
};

}  // namespace detail

/// Reads a table as its schema says.
///
/// Errors: ConfigError for a schema that cannot mean anything or names a column that does not exist; DataError, naming file, line, column
///         and value, for files that do not say what the schema expects.
/// Cost:   one pass over each file, which is in memory while it is read; afterwards 4 bytes a dense value, 8 an id.
inline std::shared_ptr<const Table> read_table(const TableSchema& schema) {
  return std::make_shared<const Table>(detail::TableLoader(schema).load());
}

}  // namespace rookery
