// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableStream: epochs of batches out of files that are larger than memory. The files are read once to learn the vocabularies and to check
// every row, and then once for each epoch.
//
//   TableStream reader{schema, {.batch_size = 4096, .seed = 7, .shuffle_rows = 1'000'000}};
// In all else a TableReader.  Include cost: tensor.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/batches.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/id_columns.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/shuffle.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_batch.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_layout.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/table_text.hpp>

namespace rookery {

namespace detail {

/// What the first reading learns, and how records become rows of a Table in the later ones.
class StreamedTable {
 public:
  explicit StreamedTable(const TableSchema& schema) : schema_(schema), layout_(schema_), sides_(layout_), split_(schema_.split) {
    check<ConfigError>(split_.is_by_row(), "TableStream: a split by ",
                       std::holds_alternative<SplitByOrder>(schema.split) ? "order" : "fraction",
                       " needs the whole table in memory; split by column, or by hash, of \"(row)\" where no column will do");
    for (const auto& id : schema_.ids) tokens_.emplace_back(id);
    const auto unknown = learn();
    side_.dense.resize(schema_.dense.size());
    side_.ids.resize(schema_.ids.size());
    sides_.finish(side_.dense, side_.ids);
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      features_.push_back(!is_own(i) ? side_.ids[i].feature
                                     : TableFeature{tokens_[i].name(), tokens_[i].count(), !schema_.ids[i].separator.empty(), unknown[i]});
    for (const auto& label : layout_.labels()) label_names_.push_back(name_of(label));
  }
  StreamedTable(const StreamedTable&) = delete;
  StreamedTable& operator=(const StreamedTable&) = delete;

  const TableSchema& schema() const { return schema_; }
  const TableText& text() const { return layout_.table(0); }
  const std::vector<TableFeature>& features() const { return features_; }
  const std::vector<std::string>& label_names() const { return label_names_; }
  std::int64_t rows(rookery::Part part) const { return rows_[static_cast<std::size_t>(part)]; }

  /// Up to `most` rows of a part, as a table of their own without side tables.
  Table chunk(TableRecords& records, rookery::Part part, std::int64_t most) const {
    Table::Columns columns;
    columns.label_names = label_names_;
    for (const auto& dense : schema_.dense) columns.dense.push_back({name_of(dense), 0, {}});
    for (const auto& feature : features_) columns.ids.push_back({feature, 0, {}, {0}});
    std::vector<Cell> cells;
    std::string number;
    while (columns.rows < most && records.next()) {
      if (!split_.parts_of(layout_.split_cells(records, cells, number))[static_cast<std::size_t>(part)]) continue;
      append(records, columns);
      ++columns.rows;
    }
    return Table(std::move(columns));
  }

 private:
  /// Whether an id column is one of the main table.
  bool is_own(std::size_t id) const { return layout_.id_places()[id].table == 0; }

  /// Reads the main table, keeps what the vocabularies need, and returns how many tokens of each id column have no row.
  std::vector<std::int64_t> learn() {
    std::vector<std::vector<bool>> used(tokens_.size());
    std::vector<std::vector<std::int64_t>> seen(tokens_.size());  // how often, each token of a training part's vocabulary
    std::vector<std::int64_t> unknown(tokens_.size());
    std::vector<LabelCheck> checks(layout_.labels().size());
    std::vector<Cell> cells;
    std::string number;
    for (TableRecords records(text()); records.next();) {
      const auto parts = split_.parts_of(layout_.split_cells(records, cells, number));
      for (std::size_t part = 0; part < parts.size(); ++part) rows_[part] += parts[part];
      for (std::size_t i = 0; i < checks.size(); ++i) checks[i].add(layout_.label(i, records), parts[0]);
      if (layout_.has_weight()) layout_.weight(records);
      for (std::size_t side = 0; side < sides_.size(); ++side)
        if (const auto row = sides_.join(side, layout_.join_cell(side, records)); parts[0]) sides_.mark_trained(side, row);
      for (std::size_t i = 0; i < schema_.dense.size(); ++i)
        if (const auto place = layout_.dense_places()[i]; place.table == 0) dense_of(schema_.dense[i], records.cell(place.column));
      for (std::size_t i = 0; i < tokens_.size(); ++i)
        if (is_own(i))
          tokens_[i].read(records.cell(layout_.id_places()[i].column), [&](std::int64_t code) {
            if (code < 0) ++unknown[i];
            if (code < 0 || schema_.ids[i].rows != IdRows::training_part) return;
            used[i].resize(tokens_[i].size());
            seen[i].resize(tokens_[i].size());
            ++seen[i][static_cast<std::size_t>(code)];
            if (parts[0]) used[i][static_cast<std::size_t>(code)] = true;
          });
    }
    check<ConfigError>(rows_[0] > 0 || !schema_.has_label, "split: no row is left to train on");
    for (std::size_t i = 0; i < checks.size(); ++i) checks[i].finish(text().path(), layout_.labels()[i].column, rows_[0]);
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (!is_own(i)) continue;
      tokens_[i].close(used[i]);
      for (std::size_t code = 0; code < seen[i].size(); ++code)
        if (!tokens_[i].has_row(static_cast<std::int64_t>(code))) unknown[i] += seen[i][code];
    }
    return unknown;
  }

  void append(const TableRecords& records, Table::Columns& columns) const {
    for (std::size_t i = 0; i < label_names_.size(); ++i) columns.labels.push_back(layout_.label(i, records));
    if (layout_.has_weight()) columns.weights.push_back(layout_.weight(records));
    if (layout_.has_group()) columns.groups.push_back(layout_.group(records));
    std::vector<std::size_t> joined;
    for (std::size_t side = 0; side < sides_.size(); ++side)
      joined.push_back(static_cast<std::size_t>(sides_.join(side, layout_.join_cell(side, records))));
    for (std::size_t i = 0; i < columns.dense.size(); ++i) {
      const auto place = layout_.dense_places()[i];
      columns.dense[i].values.push_back(place.table == 0 ? dense_of(schema_.dense[i], records.cell(place.column))
                                                         : side_.dense[i].values[joined[place.table - 1]]);
    }
    for (std::size_t i = 0; i < columns.ids.size(); ++i) {
      auto& ids = columns.ids[i].ids;
      if (is_own(i)) {
        tokens_[i].rows(records.cell(layout_.id_places()[i].column), [&](std::int64_t row) { ids.push_back(row); });
      } else {
        const auto bag = side_.ids[i].bag(joined[layout_.id_places()[i].table - 1]);
        ids.insert(ids.end(), bag.begin(), bag.end());
      }
      columns.ids[i].offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
  }

  TableSchema schema_;
  TableLayout layout_;
  SideTables sides_;
  SplitBuilder split_;
  std::vector<IdTokens> tokens_;             // of each id column; those of side tables stay empty
  Table::Columns side_;                      // the columns of the side tables
  std::vector<TableFeature> features_;
  std::vector<std::string> label_names_;
  std::array<std::int64_t, 3> rows_ = {};    // of each part
};

}  // namespace detail

/// One pass over a part of a streamed table; drawn once, by one thread.
class TableStreamEpoch {
 public:
  TableStreamEpoch(std::shared_ptr<const detail::StreamedTable> table, const TableReaderOptions& options, Part part, std::uint64_t epoch)
      : table_(std::move(table)), options_(options), part_(part), records_(table_->text()),
        engine_(detail::seeded_engine(options.seed, epoch)) {}

  /// This rank's slice of the next global batch, or nothing at the end. Every rank gets the same number of batches.
  std::optional<TableBatch> next() {
    if (at_ == order_.size() && !next_chunk()) return {};
    const auto count = std::min(static_cast<std::int64_t>(order_.size() - at_), options_.batch_size);
    const auto rows = std::span<const std::int64_t>(order_).subspan(at_, static_cast<std::size_t>(count));
    at_ += rows.size();
    if (part_ == Part::train && options_.drop_last && count < options_.batch_size) return {};
    const auto slice = rank_slice(count, options_.rank, options_.world_size);
    return batch_of(*chunk_, rows.subspan(static_cast<std::size_t>(slice.begin), static_cast<std::size_t>(slice.end - slice.begin)));
  }

  auto begin() { return NextIterator<TableStreamEpoch>{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  /// The next rows, as many as are shuffled among themselves; whole batches, so that none lies in two chunks.
  bool next_chunk() {
    const auto most = part_ == Part::train ? options_.shuffle_rows : options_.batch_size;
    if (ended_) return false;
    chunk_.emplace(table_->chunk(records_, part_, batches_of(most, Part::test, options_) * options_.batch_size));
    ended_ = chunk_->rows() < most;
    order_.resize(static_cast<std::size_t>(chunk_->rows()));
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
    if (part_ == Part::train) detail::shuffle(order_, engine_);
    at_ = 0;
    return !order_.empty();
  }

  std::shared_ptr<const detail::StreamedTable> table_;
  TableReaderOptions options_;
  Part part_;
  detail::TableRecords records_;
  std::mt19937_64 engine_;
  std::optional<Table> chunk_;
  std::vector<std::int64_t> order_;
  std::size_t at_ = 0;
  bool ended_ = false;
};

/// Epochs of the parts of a table that is never in memory, cut for one rank.
///
/// Batches are those of a TableReader of the same schema, but for the order of training: each `shuffle_rows` rows (65,536 where it is 0;
/// rounded up to whole batches) are shuffled among themselves. Splits by column and by hash only: the others need the whole table.
/// Errors: what read_table throws, already when it is made; ConfigError for a split that needs the whole table; DataError where a file has
///         changed since.
/// Cost:   memory for `shuffle_rows` rows, a block of a file, the vocabularies of id columns that have one, and the side tables; one pass
///         over the files for each epoch, and one before.
/// Ranks:  every rank reads all of the files, and makes batches of its own rows.
class TableStream {
 public:
  TableStream(const TableSchema& schema, TableReaderOptions options) : options_(options) {
    check_options(options, "TableStream");
    if (options_.shuffle_rows == 0) options_.shuffle_rows = 65'536;
    table_ = std::make_shared<const detail::StreamedTable>(schema);
  }

  /// Name, rows of the embedding table and multi-hotness of each id column, in the order of the schema and of the batches' keys.
  const std::vector<TableFeature>& features() const { return table_->features(); }
  /// The columns of TableBatch::dense.
  std::vector<std::string> dense_names() const {
    std::vector<std::string> names;
    for (const auto& dense : table_->schema().dense) names.push_back(name_of(dense));
    return names;
  }
  /// The columns of TableBatch::labels, or the name of the only one; none for data without labels.
  const std::vector<std::string>& label_names() const { return table_->label_names(); }
  /// Rows of a part, over all ranks.
  std::int64_t rows(Part part) const { return table_->rows(part); }
  /// Batches of a part, the same on every rank.
  std::int64_t batches(Part part) const { return batches_of(rows(part), part, options_); }

  /// One pass over a part; `epoch` matters for training only.
  TableStreamEpoch epoch(Part part, std::uint64_t epoch = 0) const { return {table_, options_, part, epoch}; }

  const TableReaderOptions& options() const { return options_; }

 private:
  TableReaderOptions options_;
  std::shared_ptr<const detail::StreamedTable> table_;
};

}  // namespace rookery
