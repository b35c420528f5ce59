// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableLayout: a schema beside the headers of its files: where each column is. SideTables: the tables that are joined, read into memory.
//
// Include cost: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/id_columns.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/suggest.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/table_text.hpp>
#include <rookery/data/vocabulary.hpp>

namespace rookery::detail {

/// Where a column is: in which table (0: the main one, i + 1: side table i), and which of its columns.
struct Place {
  std::size_t table = 0, column = 0;
};

inline std::optional<std::size_t> index_in(const std::vector<std::string>& columns, std::string_view name) {
  const auto found = std::find(columns.begin(), columns.end(), name);
  return found == columns.end() ? std::optional<std::size_t>() : static_cast<std::size_t>(found - columns.begin());
}

/// The places of a schema's columns in its files. The schema outlives it.
/// Errors: ConfigError for a schema that cannot mean anything or names a column that is not there; DataError for a file without a header.
class TableLayout {
 public:
  explicit TableLayout(const TableSchema& schema) : schema_(checked(schema)), labels_(labels_of(schema)) {
    tables_.emplace_back(schema.file);
    for (const auto& side : schema.side_tables) tables_.emplace_back(side.file);
    for (const auto& dense : schema.dense) dense_places_.push_back(find(dense.column, "dense column"));
    for (const auto& id : schema.ids) id_places_.push_back(find(id.column, "id column"));
    for (const auto& side : schema.side_tables) {
      side_keys_.push_back(column_of(side_keys_.size() + 1, side.key, concat("side table '", side.name, "', key")));
      join_columns_.push_back(column_of(0, side.column.empty() ? side.key : side.column, concat("side table '", side.name, "', column")));
    }
    for (const auto& label : labels_) label_columns_.push_back(column_of(0, label.column, "label"));
    if (!schema.weight.empty()) weight_column_ = column_of(0, schema.weight, "weight");
    if (!schema.group.column.empty()) group_column_ = column_of(0, schema.group.column, "group");
    for (const auto& name : columns_of(schema.split))
      split_columns_.push_back(name == row_number ? row_number_column : name == file_path ? file_column : column_of(0, name, "split"));
  }

  const TableSchema& schema() const { return schema_; }
  const TableText& table(std::size_t index) const { return tables_[index]; }
  const std::vector<LabelColumn>& labels() const { return labels_; }
  const std::vector<Place>& dense_places() const { return dense_places_; }
  const std::vector<Place>& id_places() const { return id_places_; }
  /// The column of side table `side` that holds its key.
  std::size_t side_key(std::size_t side) const { return side_keys_[side]; }

  // Of a record of the main table:
  float label(std::size_t index, const TableRecords& record) const { return label_of(labels_[index], record.cell(label_columns_[index])); }
  bool has_weight() const { return weight_column_.has_value(); }
  float weight(const TableRecords& record) const { return weight_of(record.cell(*weight_column_)); }
  bool has_group() const { return group_column_.has_value(); }
  std::int64_t group(const TableRecords& record) const { return group_of(record.cell(*group_column_)); }
  Cell join_cell(std::size_t side, const TableRecords& record) const { return record.cell(join_columns_[side]); }

  /// The cells that the split looks at; valid until the next call.
  const std::vector<Cell>& split_cells(const TableRecords& record, std::vector<Cell>& cells, std::string& number) const {
    cells.clear();
    for (const auto column : split_columns_) {
      if (column == row_number_column) number = std::to_string(record.row());
      cells.push_back(column == file_column         ? Cell{record.path(), record.line(), file_path, record.path()}
                      : column == row_number_column ? Cell{record.path(), record.line(), row_number, number}
                                                    : record.cell(column));
    }
    return cells;
  }

 private:
  // The two columns that no file has.
  static constexpr auto row_number_column = ~std::size_t{0}, file_column = row_number_column - 1;

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

  const TableSchema& schema_;
  std::vector<LabelColumn> labels_;
  std::deque<TableText> tables_;  // the main one, then the side tables
  std::vector<Place> dense_places_, id_places_;
  std::vector<std::size_t> side_keys_, join_columns_, label_columns_, split_columns_;
  std::optional<std::size_t> weight_column_, group_column_;
};

/// The columns of one table that a schema asks for, while they are read.
class ColumnBuilders {
 public:
  ColumnBuilders(const TableLayout& layout, std::size_t table) {
    for (std::size_t i = 0; i < layout.dense_places().size(); ++i)
      if (const auto place = layout.dense_places()[i]; place.table == table)
        dense_.push_back({i, place.column, DenseBuilder(layout.schema().dense[i], table)});
    for (std::size_t i = 0; i < layout.id_places().size(); ++i)
      if (const auto place = layout.id_places()[i]; place.table == table)
        ids_.push_back({i, place.column, IdBuilder(layout.schema().ids[i], table)});
  }

  void add(const TableRecords& record) {
    for (auto& dense : dense_) dense.builder.add(record.cell(dense.column));
    for (auto& id : ids_) id.builder.add(record.cell(id.column));
  }
  /// The row that stands for keys that a side table does not have.
  void add_missing() {
    for (auto& dense : dense_) dense.builder.add_missing();
    for (auto& id : ids_) id.builder.add_missing();
  }

  /// Puts each column in its place among all those of the schema.
  void finish(const std::vector<bool>& trained, std::vector<DenseData>& dense, std::vector<IdData>& ids) {
    for (auto& column : dense_) dense[column.index] = column.builder.finish();
    for (auto& column : ids_) ids[column.index] = column.builder.finish([&](std::size_t row) { return trained[row]; });
  }

 private:
  template <class Builder> struct Column {
    std::size_t index, column;  // in the schema, in the file
    Builder builder;
  };
  std::vector<Column<DenseBuilder>> dense_;
  std::vector<Column<IdBuilder>> ids_;
};

/// The side tables of a schema, read into memory.
class SideTables {
 public:
  explicit SideTables(const TableLayout& layout) : layout_(layout), keys_(layout.schema().side_tables.size()) {
    for (std::size_t side = 0; side < keys_.size(); ++side) {
      read(side);
      trained_.emplace_back(static_cast<std::size_t>(keys_[side].size()) + 1);
    }
  }

  std::size_t size() const { return keys_.size(); }
  /// The row of side table `side` whose key a cell holds; the row after its last for a key that it lacks and may lack.
  std::int64_t join(std::size_t side, const Cell& cell) const {
    const auto row = keys_[side].find(cell.text);
    if (row >= 0) return row;
    const auto& table = layout_.schema().side_tables[side];
    if (table.unknown == UnknownKeys::refuse)
      cell.refuse("is not a key of side table '", table.name, "' (", layout_.table(side + 1).path(),
                  "); to accept it, set unknown = missing");
    return keys_[side].size();
  }
  /// Says that a row of the training part reaches this row.
  void mark_trained(std::size_t side, std::int64_t row) { trained_[side][static_cast<std::size_t>(row)] = true; }

  /// Puts each column in its place among all those of the schema.
  void finish(std::vector<DenseData>& dense, std::vector<IdData>& ids) {
    for (std::size_t side = 0; side < keys_.size(); ++side) columns_[side].finish(trained_[side], dense, ids);
  }

 private:
  void read(std::size_t side) {
    const auto table = side + 1;
    const auto& schema = layout_.schema().side_tables[side];
    auto& columns = columns_.emplace_back(layout_, table);
    TableRecords records(layout_.table(table));
    for (std::int64_t row = 0; records.next(); ++row) {
      const auto key = records.cell(layout_.side_key(side));
      if (keys_[side].add(key.text) != row) key.refuse("is there twice; it is the key of side table '", schema.name, "'");
      columns.add(records);
    }
    if (schema.unknown == UnknownKeys::missing) columns.add_missing();
  }

  const TableLayout& layout_;
  std::vector<Tokens> keys_;  // of each side table; the code of a key is its row
  std::vector<ColumnBuilders> columns_;
  std::vector<std::vector<bool>> trained_;
};

}  // namespace rookery::detail
