// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// read_table: from a schema to a Table in memory. Side tables first, then the main one, joined row by row.
//
// Torch-free.  Include cost: none.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rookery/data/csv.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_layout.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/table_text.hpp>

namespace rookery {

namespace detail {

/// Reads one schema's files into one Table.
inline Table load_table(const TableSchema& schema) {
  const TableLayout layout(schema);
  SideTables sides(layout);
  ColumnBuilders main(layout, 0);
  SplitBuilder split(schema.split);
  Table::Columns columns;
  columns.joins.resize(sides.size());
  for (const auto& label : layout.labels()) columns.label_names.push_back(name_of(label));

  std::vector<Cell> split_cells;
  std::string number;
  for (TableRecords records(layout.table(0)); records.next();) {
    split.add(layout.split_cells(records, split_cells, number));
    for (std::size_t i = 0; i < layout.labels().size(); ++i) columns.labels.push_back(layout.label(i, records));
    if (layout.has_weight()) columns.weights.push_back(layout.weight(records));
    if (layout.has_group()) columns.groups.push_back(layout.group(records));
    for (std::size_t side = 0; side < sides.size(); ++side)
      columns.joins[side].push_back(sides.join(side, layout.join_cell(side, records)));
    main.add(records);
    ++columns.rows;
  }
  columns.parts = split.finish(/*needs_training=*/schema.has_label);

  std::vector<bool> trained(static_cast<std::size_t>(columns.rows));
  for (const auto row : columns.parts[0]) {
    trained[static_cast<std::size_t>(row)] = true;
    for (std::size_t side = 0; side < sides.size(); ++side)
      sides.mark_trained(side, columns.joins[side][static_cast<std::size_t>(row)]);
  }
  std::vector<LabelCheck> checks(layout.labels().size());
  for (std::size_t i = 0; i < columns.labels.size(); ++i) checks[i % checks.size()].add(columns.labels[i], trained[i / checks.size()]);
  for (std::size_t i = 0; i < checks.size(); ++i)
    checks[i].finish(layout.table(0).path(), layout.labels()[i].column, static_cast<std::int64_t>(columns.parts[0].size()));
  columns.dense.resize(schema.dense.size());
  columns.ids.resize(schema.ids.size());
  main.finish(trained, columns.dense, columns.ids);
  sides.finish(columns.dense, columns.ids);
  return Table(std::move(columns));
}

}  // namespace detail

/// Reads a table as its schema says.
///
/// Errors: ConfigError for a schema that cannot mean anything or names a column that does not exist; DataError, naming file, line, column
///         and value, for files that do not say what the schema expects.
/// Cost:   one pass over each file, a block of it in memory at a time; afterwards 4 bytes a dense value, 8 an id. TableStream keeps none.
inline std::shared_ptr<const Table> read_table(const TableSchema& schema) {
  return std::make_shared<const Table>(detail::load_table(schema));
}

}  // namespace rookery
