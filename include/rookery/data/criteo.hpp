// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// CriteoReader: batches out of the Criteo click logs, read line by line in the order of the files.
//
//   CriteoReader reader{{.paths = {"day_0", "day_1"}, .batch_size = 2048, .rows = {100'000}, .rank = topology.rank(), .world_size = ..}};
//   for (TableBatch& batch : prefetch(reader.epoch(), 2)) ...
// Answers to torchrec/datasets/criteo.py, whose dense transform depends on each file's minimum.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/data/batches.hpp>
#include <rookery/data/criteo_line.hpp>
#include <rookery/data/line_reader.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_batch.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

/// The row of a Criteo id in a table of `rows` hashed rows: the upper 64 bits of mix64(mix64(seed) + id) * rows. Another law than that of
/// hashed_row, of ids or of texts. A model's rows mean what they meant when it was trained, so this never changes.
constexpr std::int64_t criteo_row(std::uint32_t id, std::int64_t rows, std::uint64_t seed = 0) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::int64_t>(Wide{mix64(mix64(seed) + id)} * static_cast<std::uint64_t>(rows) >> 64);
}

/// What Criteo files are read as.
struct CriteoOptions {
  std::vector<std::string> paths = {};
  std::int64_t batch_size = 2048;            // of all ranks together
  std::vector<std::int64_t> rows = {};       // hashed rows of each of the 26 tables, or one number for all of them
  std::uint64_t seed = 0;                    // of the hash
  bool has_label = true;                     // false: lines have 39 columns, and batches no labels
  bool missing_flags = false;                // 13 more dense columns: 1 where the integer is missing
  bool drop_last = false;                    // leave out a last batch of fewer lines
  std::int64_t bad_lines = 0;                // lines that a rank may leave out of an epoch, because they are not what they should be
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
};

namespace detail {

/// What the epochs of a reader share.
struct CriteoShared {
  CriteoOptions options;
  std::vector<std::string> keys;             // of the ids
  std::atomic<std::int64_t> skipped = 0;
};

}  // namespace detail

/// One pass over the files; drawn once, by one thread.
class CriteoEpoch {
 public:
  explicit CriteoEpoch(std::shared_ptr<detail::CriteoShared> shared) : shared_(std::move(shared)), text_(shared_->options.paths) {}

  /// This rank's share of the next `batch_size` lines, or nothing at the end. Every rank gets the same number of batches.
  std::optional<TableBatch> next() {
    const auto& options = shared_->options;
    const auto slice = rank_slice(options.batch_size, options.rank, options.world_size);
    lines_.clear();
    std::int64_t count = 0;
    for (; count < options.batch_size && text_.next(); ++count)
      if (slice.begin <= count && count < slice.end) read_line();
    if (count == 0 || (count < options.batch_size && options.drop_last)) return {};
    return batch_of_lines();
  }

  auto begin() { return NextIterator<CriteoEpoch>{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  void read_line() {
    const auto& options = shared_->options;
    auto& line = lines_.emplace_back();
    auto mistake = parse_criteo_line(text_.line(), line, options.has_label);
    // All ids of the published files have eight digits.
    if (mistake.why.empty() && !text_.has_end() && (text_.line().size() - text_.line().rfind('\t') - 1) % 8 != 0)
      mistake = {0, "the file ends in the middle of the line"};
    if (mistake.why.empty()) return;
    if (++skipped_ > options.bad_lines) fail<DataError>(text_.path(), ":", text_.number(), ": ", told(mistake));
    ++shared_->skipped;
    lines_.pop_back();
  }

  std::string told(const CriteoMistake& mistake) const {
    const auto& options = shared_->options;
    const auto text = text_.line();
    auto sentence = concat(mistake.column ? concat("column '", criteo_column(mistake.column, options.has_label), "': ") : "", mistake.why);
    constexpr std::ptrdiff_t unlabelled = CriteoLine::num_integers + CriteoLine::num_ids;
    if (options.has_label && std::count(text.begin(), text.end(), '\t') + 1 == unlabelled)
      sentence += "; lines without labels, of 39 columns, are read with has_label = false";
    if (options.bad_lines > 0) sentence += concat("; it is bad line ", skipped_, " of the epoch, and bad_lines = ", options.bad_lines);
    return sentence;
  }

  TableBatch batch_of_lines() const;

  std::shared_ptr<detail::CriteoShared> shared_;
  LineReader text_;
  std::vector<CriteoLine> lines_;
  std::int64_t skipped_ = 0;
};

/// Batches of Criteo files. `dense` holds log(1 + max(x, 0)) of the integers, 0 for a missing one; each of the 26 tables has one more row
/// than it has hashed ones, the last, for a missing id, so that every bag holds one id.
///
/// Lines come in the order of the files, which are read anew in every epoch; the lines of a last, smaller batch go to the first ranks.
/// Errors: ConfigError for options that mean nothing; the epochs throw DataError, naming file, line and column, for a line that is not what
///         it should be (more than `bad_lines` of them in an epoch), a file that cannot be read or is empty, and a last line that was
///         cut off.
/// Cost:   a block of the file and a batch of lines in memory; a rank looks for the ends of all lines and reads its own.
class CriteoReader {
 public:
  explicit CriteoReader(CriteoOptions options) : shared_(std::make_shared<detail::CriteoShared>()) {
    auto& rows = options.rows;
    check<ConfigError>(!options.paths.empty(), "CriteoReader: no path is given");
    check<ConfigError>(options.batch_size >= 1, "CriteoReader: batch_size ", options.batch_size, " must be at least 1");
    check<ConfigError>(options.bad_lines >= 0, "CriteoReader: bad_lines ", options.bad_lines, " is negative");
    check<ConfigError>(0 <= options.rank && options.rank < options.world_size, "CriteoReader: rank ", options.rank,
                       " is not in a world of ", options.world_size);
    check<ConfigError>(rows.size() == 1 || rows.size() == CriteoLine::num_ids, "CriteoReader: rows has ", rows.size(),
                       " entries; it must have one for all tables or one for each of the 26");
    for (const auto count : rows) {
      check<ConfigError>(count >= 1, "CriteoReader: rows = ", rows, " must be at least 1 each");
      check<ConfigError>(count < std::numeric_limits<std::int64_t>::max(), "CriteoReader: ", count, " rows leave none for missing ids");
    }
    rows.resize(CriteoLine::num_ids, rows[0]);
    for (std::size_t i = 1; i <= CriteoLine::num_ids; ++i) shared_->keys.push_back(concat("C", i));
    shared_->options = std::move(options);
  }

  /// Name and rows of the embedding table of each id, in the order of the columns.
  std::vector<TableFeature> features() const {
    std::vector<TableFeature> features;
    for (std::size_t i = 0; i < CriteoLine::num_ids; ++i)
      features.push_back({.name = shared_->keys[i], .num_embeddings = shared_->options.rows[i] + 1});
    return features;
  }
  /// The columns of TableBatch::dense.
  std::vector<std::string> dense_names() const {
    std::vector<std::string> names;
    for (std::size_t i = 1; i <= CriteoLine::num_integers; ++i) names.push_back(concat("I", i));
    if (shared_->options.missing_flags)
      for (std::size_t i = 1; i <= CriteoLine::num_integers; ++i) names.push_back(concat("I", i, "_missing"));
    return names;
  }
  CriteoEpoch epoch() const { return CriteoEpoch(shared_); }
  /// Lines that this rank has left out, over all epochs.
  std::int64_t skipped() const { return shared_->skipped; }

 private:
  std::shared_ptr<detail::CriteoShared> shared_;
};

inline TableBatch CriteoEpoch::batch_of_lines() const {
  constexpr auto integers = CriteoLine::num_integers;
  const auto& options = shared_->options;
  // Most integers are small. Filled here and not by at::ones, which for so many would wake other threads.
  static const auto small_logs = [] {
    std::array<float, 1024> logs{};
    for (std::size_t x = 0; x < logs.size(); ++x) logs[x] = std::log1p(static_cast<float>(x));
    return logs;
  }();
  const auto log_of = [](std::int64_t x) {
    if (x <= 0) return 0.0F;
    return x < std::ssize(small_logs) ? small_logs[static_cast<std::size_t>(x)] : std::log1p(static_cast<float>(x));
  };
  const auto rows = static_cast<std::int64_t>(lines_.size());
  const auto width = static_cast<std::int64_t>(options.missing_flags ? 2 * integers : integers);
  TableBatch batch{ops::empty({rows, width}, at::kFloat), {}, ops::ones({rows}, at::kFloat), {}};  // [B, 13 or 26], [B]
  auto* dense = batch.dense.mutable_data_ptr<float>();
  for (const auto& line : lines_) {
    for (const auto x : line.integers) *dense++ = log_of(x);
    for (std::size_t i = 0; options.missing_flags && i < integers; ++i) *dense++ = line.integer_missing(i);
  }
  if (options.has_label) {
    batch.labels = ops::empty({rows}, at::kFloat);                                           // [B]
    auto* label = batch.labels.mutable_data_ptr<float>();
    for (const auto& line : lines_) *label++ = static_cast<float>(line.label);
  }
  const auto ids = static_cast<std::int64_t>(CriteoLine::num_ids) * rows;
  auto values = ops::empty({ids}, at::kLong);                                                // [26 * B]
  auto* value = values.mutable_data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < CriteoLine::num_ids; ++i)
    for (const auto& line : lines_)
      *value++ = line.id_missing(i) ? options.rows[i] : criteo_row(line.ids[i], options.rows[i], options.seed);
  const auto lengths = ops::empty({ids}, at::kLong);                                         // [26 * B]
  std::fill_n(lengths.mutable_data_ptr<std::int64_t>(), ids, 1);
  batch.ids = KeyedJaggedTensor::from_lengths(shared_->keys, std::move(values), lengths, {}, rows);
  return batch;
}

}  // namespace rookery
