// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableReader: epochs of batches out of a CSV or TSV file that a TableSchema describes.
//
//   TableReader reader{schema, {.batch_size = 256, .rank = topology.rank(), .world_size = topology.world_size(), .seed = 7}};
//   for (TableBatch& batch : prefetch(reader.epoch(Part::train, epoch), 2)) ...
// Answers to torchrec's DLRM examples (dlrm_dataloader.py), where each rank reads files of its own.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/data/batches.hpp>
#include <rookery/data/read_table.hpp>
#include <rookery/data/shuffle.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

/// This rank's rows of one global batch; there may be none.
struct TableBatch {
  at::Tensor dense;        // [B, dense columns] float32
  at::Tensor labels;       // [B] float32
  at::Tensor weights;      // [B] float32, ones
  KeyedJaggedTensor ids;   // a key for each id column of the schema, in its order

  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &TableBatch::dense, "labels", &TableBatch::labels, "weights", &TableBatch::weights, "ids",
                            &TableBatch::ids);
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

/// Rows [begin, end) of a batch of `rows` that are `rank`'s: nearly equal slices in rank order, the first ranks have one more.
struct BatchSlice {
  std::int64_t begin = 0, end = 0;
};
inline BatchSlice rank_slice(std::int64_t rows, std::int64_t rank, std::int64_t world_size) {
  const auto each = rows / world_size, more = rows % world_size;
  const auto begin = rank * each + std::min(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

/// One pass over a part of a table; drawn once, by one thread.
class TableEpoch {
 public:
  TableEpoch(std::shared_ptr<const Table> table, const TableReaderOptions& options, Part part, std::uint64_t epoch)
      : table_(std::move(table)), options_(options), part_(part), left_(table_->rows(part)) {
    if (part == Part::train) order_.emplace(left_, options.seed, epoch, options.shuffle_rows > 0 ? options.shuffle_rows : left_);
    if (part == Part::train && options.drop_last) left_ -= left_ % options.batch_size;
  }

  /// This rank's slice of the next global batch, or nothing at the end. Every rank gets the same number of batches.
  std::optional<TableBatch> next() {
    if (left_ == 0) return {};
    const auto count = std::min(left_, options_.batch_size);
    left_ -= count;
    const auto slice = rank_slice(count, options_.rank, options_.world_size);
    rows_.clear();
    for (std::int64_t i = 0; i < count; ++i) {
      const auto row = table_->part(part_)[static_cast<std::size_t>(order_ ? order_->next() : position_++)];
      if (slice.begin <= i && i < slice.end) rows_.push_back(row);
    }
    return batch_of(*table_, rows_);
  }

  auto begin() { return NextIterator<TableEpoch>{*this}; }
  std::default_sentinel_t end() const { return {}; }

  /// The batch that consists of the given rows of the table.
  static TableBatch batch_of(const Table& table, const std::vector<std::int64_t>& rows);

 private:
  std::shared_ptr<const Table> table_;
  TableReaderOptions options_;
  Part part_;
  std::int64_t left_, position_ = 0;
  std::optional<ShuffledRows> order_;
  std::vector<std::int64_t> rows_;
};

/// Epochs of a table's parts, cut for one rank.
///
/// The training part comes in a new order every epoch, which depends on (seed, epoch, shuffle_rows) only: the slices of all ranks, put
/// together, are the batches that one process would see. The other parts come in the order of the file.
/// Errors: what read_table throws; ConfigError for a batch size below 1 or a rank outside the world.
/// Ranks:  every rank has a reader of its own; readers of one process can share a table.
class TableReader {
 public:
  TableReader(const TableSchema& schema, TableReaderOptions options) : TableReader(read_table(schema), options) {}
  TableReader(std::shared_ptr<const Table> table, TableReaderOptions options) : table_(std::move(table)), options_(options) {
    check<ConfigError>(options.batch_size >= 1, "TableReader: batch_size ", options.batch_size, " must be at least 1");
    check<ConfigError>(0 <= options.rank && options.rank < options.world_size, "TableReader: rank ", options.rank, " is not in a world of ",
                       options.world_size);
    check<ConfigError>(options.shuffle_rows >= 0, "TableReader: shuffle_rows ", options.shuffle_rows, " is negative");
  }

  /// Name, rows of the embedding table and multi-hotness of each id column, in the order of the schema and of the batches' keys.
  std::vector<TableFeature> features() const {
    std::vector<TableFeature> features;
    for (const auto& ids : table_->ids()) features.push_back(ids.feature);
    return features;
  }
  /// The columns of TableBatch::dense.
  std::vector<std::string> dense_names() const {
    std::vector<std::string> names;
    for (const auto& dense : table_->dense()) names.push_back(dense.name);
    return names;
  }
  /// Rows of a part, over all ranks.
  std::int64_t rows(Part part) const { return table_->rows(part); }
  /// Batches of a part, the same on every rank.
  std::int64_t batches(Part part) const {
    const auto keep = part == Part::train && options_.drop_last ? 0 : options_.batch_size - 1;
    return (rows(part) + keep) / options_.batch_size;
  }

  /// One pass over a part; `epoch` matters for training only.
  TableEpoch epoch(Part part, std::uint64_t epoch = 0) const { return {table_, options_, part, epoch}; }

  const std::shared_ptr<const Table>& table() const { return table_; }
  const TableReaderOptions& options() const { return options_; }

 private:
  std::shared_ptr<const Table> table_;
  TableReaderOptions options_;
};

inline TableBatch TableEpoch::batch_of(const Table& table, const std::vector<std::int64_t>& rows) {
  const auto size = static_cast<std::int64_t>(rows.size());
  const auto width = static_cast<std::int64_t>(table.dense().size());
  TableBatch batch{at::empty({size, width}, at::kFloat),                                       // [B, dense columns]
                   at::empty({size}, at::kFloat), at::ones({size}, at::kFloat), {}};           // [B], [B]
  auto* labels = batch.labels.mutable_data_ptr<float>();
  for (const auto row : rows) *labels++ = table.labels()[static_cast<std::size_t>(row)];
  for (std::int64_t column = 0; column < width; ++column) {
    const auto& dense = table.dense()[static_cast<std::size_t>(column)];
    auto* to = batch.dense.mutable_data_ptr<float>() + column;
    for (const auto row : rows) {
      *to = dense.values[table.row_in(dense.table, row)];
      to += width;
    }
  }

  std::vector<std::string> keys;
  auto lengths = at::empty({static_cast<std::int64_t>(table.ids().size()) * size}, at::kLong);   // [F * B]
  auto* length = lengths.mutable_data_ptr<std::int64_t>();
  std::int64_t total = 0;
  for (const auto& ids : table.ids()) {
    keys.push_back(ids.feature.name);
    for (const auto row : rows) total += *length++ = static_cast<std::int64_t>(ids.bag(table.row_in(ids.table, row)).size());
  }
  auto values = at::empty({total}, at::kLong);                                                 // [N]
  auto* value = values.mutable_data_ptr<std::int64_t>();
  for (const auto& ids : table.ids())
    for (const auto row : rows) value = std::ranges::copy(ids.bag(table.row_in(ids.table, row)), value).out;
  batch.ids = KeyedJaggedTensor::from_lengths(std::move(keys), std::move(values), lengths, {}, size);
  return batch;
}

}  // namespace rookery
