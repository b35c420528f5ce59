// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// read_npy: an array that NumPy saved. read_npy_table: the three arrays of torchrec's preprocessed Criteo data, as a Table.
//
//   const auto table = read_npy_table({.dense = "day_0_dense.npy", .ids = "day_0_sparse.npy", .labels = "day_0_labels.npy", .rows = {..}});
//   const TableReader reader{table, {.batch_size = 2048}};
// Answers to torchrec/datasets/criteo.py InMemoryBinaryCriteoIterDataPipe.  Include cost: tensor.

#include <ATen/core/Tensor.h>

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
#include <rookery/core/operators.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/file_blocks.hpp>
#include <rookery/data/npy_header.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

namespace detail {

/// The dtype of a tensor that holds the file's bytes, signed where LibTorch computes with signed numbers alone.
inline at::ScalarType dtype_in_memory(NpyType type) {
  switch (type) {
    case NpyType::float32: return at::kFloat;
    case NpyType::float64: return at::kDouble;
    case NpyType::int8: return at::kChar;
    case NpyType::int16: case NpyType::uint16: return at::kShort;
    case NpyType::int32: case NpyType::uint32: return at::kInt;
    case NpyType::int64: case NpyType::uint64: return at::kLong;
    default: return at::kByte;
  }
}

}  // namespace detail

/// The array of a .npy file.
///
/// Dtypes: float32, float64, bool, int8 to int64 and uint8 stay what they are; uint16 to uint64 become int64. C order only.
/// Errors: DataError, naming the file, for all else, for a uint64 that int64 cannot hold, and for a file of more or fewer bytes than its
///         shape says.
/// Cost:   the file is in memory twice while it is read; four times as int64 where it holds uint16, twice where uint32.
inline at::Tensor read_npy(const std::string& path) {
  const auto bytes = read_text(path);
  const auto header = parse_npy_header(bytes, path);
  const auto there = static_cast<std::int64_t>(bytes.size() - header.data_begin);
  check<DataError>(there == header.data_bytes, path, ": an array of shape ", header.shape, " has ", header.data_bytes,
                   " bytes; the file has ", there, " behind its header");
  auto array = ops::empty(header.shape, detail::dtype_in_memory(header.type));               // as the file says
  std::copy(bytes.begin() + static_cast<std::ptrdiff_t>(header.data_begin), bytes.end(), static_cast<char*>(array.mutable_data_ptr()));
  check<DataError>(header.type != NpyType::uint64 || !array.lt(0).any().item<bool>(), path,
                   ": a number of 2^63 or more, which int64 cannot hold");
  switch (header.type) {
    case NpyType::boolean: return array.ne(0);
    case NpyType::uint16: return array.to(at::kLong).bitwise_and(0xFFFF);
    case NpyType::uint32: return array.to(at::kLong).bitwise_and(0xFFFFFFFF);
    default: return array;
  }
}

/// Three arrays of the same rows.
struct NpyTable {
  std::string dense = "";                // [N, dense columns], of any dtype that read_npy reads
  std::string ids = "";                  // [N, id columns] integers: rows of the tables
  std::string labels = "";               // [N] or [N, 1]
  std::vector<std::int64_t> rows = {};   // of the table of each id column
  Split split = SplitByFraction{};       // by fraction, or by order or hash of "(row)"
};

/// Reads arrays as a Table; columns are called "I1", "I2" .. and "C1", "C2" .., as those of Criteo are.
/// Errors: DataError for arrays of other dtypes, dimensions or rows than one another, for dense values or labels that are not finite as
///         float32 and ids outside their tables, naming file, row and column, and where the training part has labels of 0 or of 1 alone;
///         ConfigError for a split by a column and for `rows` of another number than there are id columns.
inline std::shared_ptr<const Table> read_npy_table(const NpyTable& files) {
  check_schema(files.split);
  const auto names = columns_of(files.split);
  check<ConfigError>(std::all_of(names.begin(), names.end(), [](const auto& name) { return name == row_number; }),
                     "read_npy_table: arrays have no column to split by but \"(row)\"");
  const auto dense = read_npy(files.dense), ids = read_npy(files.ids), labels = read_npy(files.labels).reshape({-1});
  const auto rows = labels.size(0);
  check<DataError>(dense.dim() == 2, files.dense, ": dense values must be of two dimensions");
  check<DataError>(ids.dim() == 2 && at::isIntegralType(ids.scalar_type(), /*includeBool=*/false), files.ids,
                   ": ids must be integers of two dimensions");
  check<DataError>(dense.size(0) == rows && ids.size(0) == rows, files.dense, " has ", dense.size(0), " rows, ", files.ids, " ",
                   ids.size(0), " and ", files.labels, " ", rows);
  const auto width = dense.size(1), features = ids.size(1);
  check<ConfigError>(static_cast<std::int64_t>(files.rows.size()) == features, "read_npy_table: rows has ", files.rows.size(), " entries; ",
                     files.ids, " has ", features, " id columns");

  Table::Columns columns;
  columns.rows = rows;
  columns.label_names = {"label"};
  const auto refuse = [](const std::string& path, std::int64_t row, const std::string& column, const auto&... why) {
    fail<DataError>(path, ": row ", row, ", column '", column, "': ", why...);
  };
  const auto numbers = labels.to(at::kFloat);                                                // [N]
  columns.labels.assign(numbers.const_data_ptr<float>(), numbers.const_data_ptr<float>() + rows);
  const auto refuse_number = [&](const std::string& path, const at::Tensor& number, std::int64_t row, const std::string& column) {
    const auto value = number.item<double>();
    refuse(path, row, column, value, std::isfinite(value) ? " does not fit a float32" : " is not a finite number");
  };
  for (std::int64_t row = 0; row < rows; ++row)
    if (!std::isfinite(columns.labels[static_cast<std::size_t>(row)])) refuse_number(files.labels, labels.select(0, row), row, "label");
  const auto narrow = dense.to(at::kFloat);                                                  // [N, dense columns]
  for (std::int64_t i = 0; i < width; ++i) {
    auto& column = columns.dense.emplace_back(DenseData{concat("I", i + 1), 0, {}});
    const auto* value = narrow.const_data_ptr<float>() + i;
    for (std::int64_t row = 0; row < rows; ++row, value += width) {
      if (!std::isfinite(*value)) refuse_number(files.dense, dense.select(0, row).select(0, i), row, column.name);
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
  detail::LabelCheck check_labels;
  for (const auto label : columns.labels) check_labels.add(label, false);
  for (const auto row : columns.parts[0]) check_labels.add(columns.labels[static_cast<std::size_t>(row)], true);
  check_labels.finish(files.labels, "label", static_cast<std::int64_t>(columns.parts[0].size()));
  return std::make_shared<const Table>(std::move(columns));
}

}  // namespace rookery
