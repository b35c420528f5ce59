// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableReader: epochs of batches out of a CSV or TSV file that a TableSchema describes.
//
//   TableReader reader{schema, {.batch_size = 256, .rank = topology.rank(), .world_size = topology.world_size(), .seed = 7}};
//   for (TableBatch& batch : prefetch(reader.epoch(Part::train, epoch), 2)) ...
// Answers to torchrec's DLRM examples (dlrm_dataloader.py), where each rank reads files of its own.  Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/batches.hpp>
#include <rookery/data/read_table.hpp>
#include <rookery/data/shuffle.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_batch.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

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
    check_options(options, "TableReader");
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
  /// The columns of TableBatch::labels, or the name of the only one; none for data without labels.
  const std::vector<std::string>& label_names() const { return table_->label_names(); }
  /// Rows of a part, over all ranks.
  std::int64_t rows(Part part) const { return table_->rows(part); }
  /// Batches of a part, the same on every rank.
  std::int64_t batches(Part part) const { return batches_of(rows(part), part, options_); }

  /// One pass over a part; `epoch` matters for training only.
  TableEpoch epoch(Part part, std::uint64_t epoch = 0) const { return {table_, options_, part, epoch}; }

  const std::shared_ptr<const Table>& table() const { return table_; }
  const TableReaderOptions& options() const { return options_; }

 private:
  std::shared_ptr<const Table> table_;
  TableReaderOptions options_;
};

}  // namespace rookery
