// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// read_npy: an array that NumPy saved. read_npy_table: the three arrays of torchrec's preprocessed Criteo data, as a Table.
//
//   const auto table = read_npy_table({.dense = "day_0_dense.npy", .ids = "day_0_sparse.npy", .labels = "day_0_labels.npy", .rows = {..}});
//   const TableReader reader{table, {.batch_size = 2048}};
// Answers to torchrec/datasets/criteo.py InMemoryBinaryCriteoIterDataPipe.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/file_blocks.hpp>
#include <rookery/data/npy_header.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

/// The array of a .npy file.
///
/// Dtypes: '<f4' gives float32, '<i4' int32, '<i8' int64, '|u1' uint8; C order only.
/// Errors: DataError, naming the file, for all else, and for a file of more or fewer bytes than its shape says.
/// Cost:   the file is in memory twice while it is read.
inline at::Tensor read_npy(const std::string& path) {
  const auto bytes = read_text(path);
  const auto header = parse_npy_header(bytes, path);
  const auto there = static_cast<std::int64_t>(bytes.size() - header.data_begin);
  check<DataError>(there == header.data_bytes, path, ": an array of shape ", header.shape, " has ", header.data_bytes,
                   " bytes; the file has ", there, " behind its header");
  const auto dtype = header.type == NpyType::float32 ? at::kFloat
                     : header.type == NpyType::int32 ? at::kInt
                     : header.type == NpyType::int64 ? at::kLong
                                                     : at::kByte;
  auto array = at::empty(header.shape, dtype);                                               // as the file says
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(header.data_begin), bytes.end(), static_cast<char*>(array.mutable_data_ptr()));
  return array;
}

/// Three arrays of the same rows.
struct NpyTable {
  std::string dense = "";                // [N, dense columns] float32
  std::string ids = "";                  // [N, id columns] int32 or int64: rows of the tables
  std::string labels = "";               // [N] or [N, 1]
  std::vector<std::int64_t> rows = {};   // of the table of each id column
  Split split = SplitByFraction{};       // by fraction, or by order or hash of "(row)"
};

/// Reads arrays as a Table; columns are called "I1", "I2" .. and "C1", "C2" .., as those of Criteo are.
/// Errors: DataError for arrays of other dtypes, dimensions or rows than one another, dense values or labels that are not finite, and ids
///         outside their tables, naming file, row and column; ConfigError for a split by a column and for `rows` of another number than
///         there are id columns.
inline std::shared_ptr<const Table> read_npy_table(const NpyTable& files) {
  check_schema(files.split);
  const auto names = columns_of(files.split);
  check<ConfigError>(std::ranges::all_of(names, [](const auto& name) { return name == row_number; }),
                     "read_npy_table: arrays have no column to split by but \"(row)\"");
  const auto dense = read_npy(files.dense), ids = read_npy(files.ids), labels = read_npy(files.labels).reshape({-1});
  const auto rows = labels.size(0);
  check<DataError>(dense.dim() == 2 && dense.scalar_type() == at::kFloat, files.dense, ": dense values must be float32 of two dimensions");
  check<DataError>(ids.dim() == 2 && !ids.is_floating_point(), files.ids, ": ids must be integers of two dimensions");
  check<DataError>(dense.size(0) == rows && ids.size(0) == rows, files.dense, " has ", dense.size(0), " rows, ", files.ids, " ",
                   ids.size(0), " and ", files.labels, " ", rows);
  const auto width = dense.size(1), features = ids.size(1);
  check<ConfigError>(static_cast<std::int64_t>(files.rows.size()) == features, "read_npy_table: rows has ", files.rows.size(), " entries; ",
                     files.ids, " has ", features, " id columns");

  Table::Columns columns;
  columns.label_names = {"label"};
  const auto refuse = [](const std::string& path, std::int64_t row, const std::string& column, const auto&... why) {
    fail<DataError>(path, ": row ", row, ", column '", column, "': ", why...);
  };
  const auto numbers = labels.to(at::kFloat);                                                // [N]
  columns.labels.assign(numbers.const_data_ptr<float>(), numbers.const_data_ptr<float>() + rows);
  for (std::int64_t row = 0; row < rows; ++row)
    if (!std::isfinite(columns.labels[static_cast<std::size_t>(row)])) refuse(files.labels, row, "label", "not a finite number");
  for (std::int64_t i = 0; i < width; ++i) {
    auto& column = columns.dense.emplace_back(DenseData{concat("I", i + 1), 0, {}});
    const auto* value = dense.const_data_ptr<float>() + i;
    for (std::int64_t row = 0; row < rows; ++row, value += width) {
      if (!std::isfinite(*value)) refuse(files.dense, row, column.name, *value, " is not a finite number");
      column.values.push_back(*value);
    }
  }
  const auto wide = ids.to(at::kLong);                                                       // [N, id columns]
  for (std::int64_t i = 0; i < features; ++i) {
    const auto count = files.rows[static_cast<std::size_t>(i)];
    auto& column = columns.ids.emplace_back(IdData{{.name = concat("C", i + 1), .num_embeddings = count}, 0, {}, {}});
    const auto* id = wide.const_data_ptr<std::int64_t>() + i;
    for (std::int64_t row = 0; row < rows; ++row, id += features) {
      if (*id < 0 || *id >= count) refuse(files.ids, row, column.feature.name, *id, " is not a row of a table of ", count);
      column.ids.push_back(*id);
    }
  }
  detail::SplitBuilder split(files.split);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto number = std::to_string(row);
    split.add(std::vector<Cell>(names.size(), Cell{files.labels, row, row_number, number}));
  }
  columns.parts = split.finish();
  return std::make_shared<const Table>(std::move(columns));
}

}  // namespace rookery
