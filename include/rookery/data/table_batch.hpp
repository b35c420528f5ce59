// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableBatch: the batch that readers of tables give, and how it is made of a table's rows.
//
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

/// This rank's rows of one global batch; there may be none.
struct TableBatch {
  at::Tensor dense;        // [B, dense columns] float32
  at::Tensor labels;       // [B] float32; [B, tasks] where the schema has several labels; not defined for data without
  at::Tensor weights;      // [B] float32, ones where no column holds weights
  KeyedJaggedTensor ids;   // a key for each id column, in its order
  at::Tensor groups = {};  // [B] int64, for metrics by group; not defined where the schema names no group

  std::int64_t size() const { return weights.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &TableBatch::dense, "labels", &TableBatch::labels, "weights", &TableBatch::weights, "ids",
                            &TableBatch::ids, "groups", &TableBatch::groups);
  }
};

/// How a table is cut into batches.
struct TableReaderOptions {
  std::int64_t batch_size = 256;     // of all ranks together
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
  std::uint64_t seed = 0;            // of the order of the training part
  bool drop_last = false;            // leave out a last training batch of fewer rows; evaluation keeps every row
  std::int64_t shuffle_rows = 0;     // rows shuffled among themselves (see ShuffledRows); 0: the whole part
};

inline void check_options(const TableReaderOptions& options, std::string_view reader) {
  check<ConfigError>(options.batch_size >= 1, reader, ": batch_size ", options.batch_size, " must be at least 1");
  check<ConfigError>(0 <= options.rank && options.rank < options.world_size, reader, ": rank ", options.rank, " is not in a world of ",
                     options.world_size);
  check<ConfigError>(options.shuffle_rows >= 0, reader, ": shuffle_rows ", options.shuffle_rows, " is negative");
}

/// Batches of a part of `rows` rows, over all ranks.
inline std::int64_t batches_of(std::int64_t rows, Part part, const TableReaderOptions& options) {
  return (rows + (part == Part::train && options.drop_last ? 0 : options.batch_size - 1)) / options.batch_size;
}

/// The batch that consists of the given rows of a table.
inline TableBatch batch_of(const Table& table, std::span<const std::int64_t> rows) {
  const auto size = static_cast<std::int64_t>(rows.size());
  const auto width = static_cast<std::int64_t>(table.dense().size());
  const auto tasks = static_cast<std::int64_t>(table.label_names().size());
  TableBatch batch{ops::empty({size, width}, at::kFloat), {}, ops::ones({size}, at::kFloat), {}};  // [B, dense columns], [B]
  if (tasks > 0) {
    batch.labels = tasks == 1 ? ops::empty({size}, at::kFloat) : ops::empty({size, tasks}, at::kFloat);  // [B] or [B, tasks]
    auto* label = batch.labels.mutable_data_ptr<float>();
    for (const auto row : rows)
      for (std::int64_t task = 0; task < tasks; ++task) *label++ = table.labels()[static_cast<std::size_t>(row * tasks + task)];
  }
  if (!table.weights().empty()) {
    auto* weight = batch.weights.mutable_data_ptr<float>();
    for (const auto row : rows) *weight++ = table.weights()[static_cast<std::size_t>(row)];
  }
  if (!table.groups().empty()) {
    batch.groups = ops::empty({size}, at::kLong);                                              // [B]
    auto* group = batch.groups.mutable_data_ptr<std::int64_t>();
    for (const auto row : rows) *group++ = table.groups()[static_cast<std::size_t>(row)];
  }
  for (std::int64_t column = 0; column < width; ++column) {
    const auto& dense = table.dense()[static_cast<std::size_t>(column)];
    auto* to = batch.dense.mutable_data_ptr<float>() + column;
    for (const auto row : rows) {
      *to = dense.values[table.row_in(dense.table, row)];
      to += width;
    }
  }

  std::vector<std::string> keys;
  auto lengths = ops::empty({static_cast<std::int64_t>(table.ids().size()) * size}, at::kLong);  // [F * B]
  auto* length = lengths.mutable_data_ptr<std::int64_t>();
  std::int64_t total = 0;
  for (const auto& ids : table.ids()) {
    keys.push_back(ids.feature.name);
    for (const auto row : rows) total += *length++ = static_cast<std::int64_t>(ids.bag(table.row_in(ids.table, row)).size());
  }
  auto values = ops::empty({total}, at::kLong);                                                // [N]
  auto* value = values.mutable_data_ptr<std::int64_t>();
  for (const auto& ids : table.ids())
    for (const auto row : rows) {
      const auto bag = ids.bag(table.row_in(ids.table, row));
      value = std::copy(bag.begin(), bag.end(), value);
    }
  batch.ids = KeyedJaggedTensor::from_lengths(std::move(keys), std::move(values), lengths, {}, size);
  return batch;
}

}  // namespace rookery
