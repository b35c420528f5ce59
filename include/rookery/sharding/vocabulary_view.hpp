// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// VocabularyView: which raw id has which row of a table of managed collision, wherever its shards live; saved by name and taken back.
//
//   model.table("item_id").vocabulary().remap(ids)             // [n] the row of each id
//   model.table("item_id").rows_of_ids(ids)                    // [n, D] and its values
//   load_vocabulary_state(other, vocabulary_state(model));     // whatever their plans
//
// A vocabulary follows from ids alone, so its state is the same under every plan and number of ranks. Answers to remap and the buffers
// of torchrec's MCHManagedCollisionModule, whose names are kept; differs: ids that wait for a row are part of it.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sharding/placement.hpp>
#include <rookery/sharding/table_view.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery {

namespace detail {

/// Columns of a vocabulary's state, as they are named; then its single numbers.
inline constexpr std::array<std::string_view, 4> vocabulary_columns{"mch_sorted_raw_ids", "mch_remapped_ids_mapping", "mch_counts",
                                                                    "mch_last_access_iter"};
inline constexpr std::array<std::string_view, 3> vocabulary_numbers{"mch_current_iter", "mch_zch_size", "mch_buckets"};

using NumbersByName = std::map<std::string, at::Tensor>;

/// A vocabulary of a whole table: steps, then (id, row, sightings, last step) of each id, ids ascending.
using VocabularyLines = std::vector<std::int64_t>;

/// Puts the shards' vocabularies together. Shards of other columns of the same rows have the same one.
template <class Topology> VocabularyLines gather_vocabulary(Topology& topology, const PlacedTable& table) {
  std::vector<std::int64_t> own;                               // of each shard: how many numbers, then these
  for (const auto& shard : table.shards)
    if (shard.local && shard.box.column_begin == 0) {
      const auto state = shard.local->vocabulary.state();
      own.push_back(static_cast<std::int64_t>(state.size()));
      own.insert(own.end(), state.begin(), state.end());
    }
  const auto of_rank = all_gather_v(topology, host_tensor(own)).wait();                       // W tensors
  std::vector<const std::int64_t*> next;
  for (const auto& one : of_rank) next.push_back(one.template const_data_ptr<std::int64_t>());
  std::vector<std::array<std::int64_t, 4>> sorted;
  std::int64_t steps = 0;
  for (const auto& [box, rank, local] : table.shards) {
    if (box.column_begin > 0) continue;
    auto& from = next[static_cast<std::size_t>(rank)];
    const auto* end = from + 1 + *from;
    steps = from[1];
    for (from += 2; from != end; from += 4) sorted.push_back({from[0], from[1] < 0 ? -1 : box.row_begin + from[1], from[2], from[3]});
  }
  std::sort(sorted.begin(), sorted.end());
  VocabularyLines lines{steps};
  for (const auto& one : sorted) lines.insert(lines.end(), one.begin(), one.end());
  return lines;
}

/// Adds the entries of a table.
inline void name_vocabulary(const TableDescription& table, const VocabularyLines& lines, NumbersByName& state) {
  for (std::size_t column = 0; column < vocabulary_columns.size(); ++column) {
    std::vector<std::int64_t> values;
    for (std::size_t at = 1 + column; at < lines.size(); at += 4) values.push_back(lines[at]);
    state.emplace(concat(table.name, ".", vocabulary_columns[column]), host_tensor(values));  // [N]
  }
  const std::array<std::int64_t, 3> numbers{lines[0], table.num_embeddings, table.managed_collision.buckets()};
  for (std::size_t i = 0; i < numbers.size(); ++i)
    state.emplace(concat(table.name, ".", vocabulary_numbers[i]), ops::scalar_tensor(numbers[i], at::kLong));
}

/// The entries of a table, checked in full: `give_vocabulary` takes what this gives. Errors: as load_state.
inline VocabularyLines read_vocabulary(const TableDescription& table, const NumbersByName& state) {
  std::int64_t ids = -1;
  const auto entry = [&](std::string_view name, std::int64_t dim) {
    const auto key = concat(table.name, ".", name);
    const auto found = state.find(key);
    check<IndexError>(found != state.end(), "table '", table.name, "': the state of its vocabulary has no entry '", key, "'");
    const auto& tensor = found->second;
    if (ids < 0 && dim == 1 && tensor.dim() == 1) ids = tensor.size(0);
    check<ShapeError>(tensor.dim() == dim && (dim == 0 || tensor.size(0) == ids) && tensor.scalar_type() == at::kLong, "entry '", key,
                      "' has shape ", tensor.sizes(), " and dtype ", c10::toString(tensor.scalar_type()), "; it must be int64 ",
                      dim == 0 ? "[]" : concat("[", std::max<std::int64_t>(ids, 0), "], an id each"));
    return tensor.to(at::kCPU).contiguous();                                                 // [N] or []
  };
  std::array<at::Tensor, 4> columns;
  for (std::size_t c = 0; c < columns.size(); ++c) columns[c] = entry(vocabulary_columns[c], 1);
  std::array<std::int64_t, 3> numbers{};
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = *entry(vocabulary_numbers[i], 0).const_data_ptr<std::int64_t>();
  const auto& assignment = table.managed_collision;
  const auto buckets = assignment.buckets(), rows = table.num_embeddings;
  check<DataError>(numbers[1] == rows && numbers[2] == buckets, "table '", table.name, "' has ", rows, " rows in ", buckets,
                   " buckets of managed collision and the vocabulary is of ", numbers[1], " rows in ", numbers[2],
                   "; an id's bucket follows from their number, so both must be the same, while plan and ranks may differ");
  VocabularyLines lines{numbers[0]};
  for (std::int64_t i = 0; i < ids; ++i)
    for (const auto& column : columns) lines.push_back(column.const_data_ptr<std::int64_t>()[i]);
  try {
    assignment.vocabulary(rows / buckets, 0, buckets).load(lines);
  } catch (const DataError& problem) {
    fail<DataError>("table '", table.name, "': ", problem.what());
  }
  return lines;
}

/// Gives every shard here its buckets' part.
inline void give_vocabulary(const PlacedTable& table, const VocabularyLines& lines) {
  const auto& assignment = table.description.managed_collision;
  const auto bucket_rows = table.description.row_block();
  for (const auto& [box, rank, local] : table.shards) {
    if (!local) continue;
    VocabularyLines part{lines[0]};
    for (auto line = lines.begin() + 1; line != lines.end(); line += 4) {
      const auto first_row = assignment.bucket_of(line[0]) * bucket_rows;
      if (first_row < box.row_begin || first_row >= box.row_end) continue;
      part.insert(part.end(), {line[0], line[1] < 0 ? -1 : line[1] - box.row_begin, line[2], line[3]});
    }
    auto vocabulary = local->vocabulary;                       // shares what it holds
    vocabulary.load(part);
  }
}

/// A line that differs where vocabularies do.
inline std::string vocabulary_line(const TableDescription& table, const VocabularyLines& lines) {
  std::uint64_t hash = 0;
  for (const auto number : lines) hash = mix64(hash ^ static_cast<std::uint64_t>(number)) + 1;
  return concat(table.name, ": a vocabulary of ", lines.size() / 4, " ids after ", lines[0], " steps, hash ", hash, "\n");
}

}  // namespace detail

/// The raw ids of one table of a placed model, which outlives the view; made by `model.table(name).vocabulary()`.
///
/// Errors:  ConfigError for a table without managed collision.
/// Ranks:   every member function is called by all, in the same order.
template <class Placed> class VocabularyView {
 public:
  VocabularyView(Placed& model, const PlacedTable& table) : model_(&model), table_(&table) {
    check<ConfigError>(static_cast<bool>(table.description.managed_collision), "table '", table.description.name,
                       "' has no managed collision; an id is the number of its row");
  }

  /// The rows that lookups of these ids read now: an id's own, or the last of its bucket, which ids without one share. Counts no sighting.
  /// Each rank may give other ids, or none.
  /// Shapes:  [n] -> [n].
  /// Dtypes:  int32 or int64, any number -> int64.
  /// Cost:    every rank sees the ids that all ask for: for some thousands.
  at::Tensor remap(const at::Tensor& ids) const {
    const auto gathered = all_gather_v(model_->topology(), detail::checked_ids(ids, table_->description)).wait();
    Counts counts;
    for (const auto& one : gathered) counts.push_back(one.numel());
    const auto all = ops::cat(gathered);                                                     // [N]
    auto rows = ops::zeros({all.numel()}, at::kLong);                                        // [N]; of ids of other ranks 0
    const auto* id = all.template const_data_ptr<std::int64_t>();
    auto* row = rows.template mutable_data_ptr<std::int64_t>();
    const auto& assignment = table_->description.managed_collision;
    for (const auto& [box, rank, local] : table_->shards) {
      if (!local || box.column_begin > 0) continue;
      for (std::int64_t i = 0; i < all.numel(); ++i) {
        const auto first_row = assignment.bucket_of(id[i]) * table_->description.row_block();
        if (first_row >= box.row_begin && first_row < box.row_end) row[i] = box.row_begin + local->vocabulary.row_of(id[i]);
      }
    }
    return reduce_scatter_v(model_->topology(), std::move(rows), counts).wait();             // [n]
  }

  /// The whole vocabulary by name, the same on every rank and under every plan. Under "<table>.mch_sorted_raw_ids" all ids that it
  /// knows, ascending; "mch_remapped_ids_mapping" the row of each, -1 while it waits for one; "mch_counts" and "mch_last_access_iter" how
  /// often and at which step it was seen; "mch_current_iter" the number of steps; "mch_zch_size" and "mch_buckets" the table's rows and
  /// buckets.
  /// Shapes:  [N] int64 the first four, [] int64 the others.
  /// Cost:    one all-gather; the whole vocabulary on every rank.
  std::map<std::string, at::Tensor> state() const {
    std::map<std::string, at::Tensor> state;
    detail::name_vocabulary(table_->description, detail::gather_vocabulary(model_->topology(), *table_), state);
    return state;
  }

  /// Takes back what `state` gave, of any plan and number of ranks; entries of other names are left alone. Weights and optimizer state of
  /// the rows are the table's, to be loaded beside. Nothing is changed before everything fits.
  /// Errors:  IndexError for an entry that is missing, ShapeError for one of another shape or dtype, DataError for another number of rows
  ///          or buckets and for ids or rows that do not fit, ConfigError when ranks give different ones; each names the table.
  void load_state(const std::map<std::string, at::Tensor>& state) const {
    const auto lines = detail::read_vocabulary(table_->description, state);
    agree(model_->topology(), "load_state", detail::vocabulary_line(table_->description, lines));
    detail::give_vocabulary(*table_, lines);
  }

 private:
  Placed* model_;
  const PlacedTable* table_;
};

/// The vocabularies of all tables of managed collision of a placed model by name; as VocabularyView::state. None: empty.
template <class Placed> std::map<std::string, at::Tensor> vocabulary_state(Placed& model) {
  std::map<std::string, at::Tensor> state;
  for (const auto& table : model.tables())
    if (table.description.managed_collision)
      detail::name_vocabulary(table.description, detail::gather_vocabulary(model.topology(), table), state);
  return state;
}

/// Takes all vocabularies back, as `vocabulary_state` gave them under any plan. Nothing is changed before everything fits.
///
/// Errors:  as VocabularyView::load_state, and IndexError for an entry that belongs to no table.
/// Ranks:   all; each gives the same.
template <class Placed> void load_vocabulary_state(Placed& model, const std::map<std::string, at::Tensor>& state) {
  std::vector<std::pair<const PlacedTable*, detail::VocabularyLines>> read;
  std::map<std::string, at::Tensor> known;
  std::string lines;
  for (const auto& table : model.tables()) {
    if (!table.description.managed_collision) continue;
    read.emplace_back(&table, detail::read_vocabulary(table.description, state));
    lines += detail::vocabulary_line(table.description, read.back().second);
    detail::name_vocabulary(table.description, read.back().second, known);
  }
  for (const auto& [key, tensor] : state)
    check<IndexError>(known.contains(key), "load_vocabulary_state: entry '", key, "' belongs to no vocabulary of the model; it has ",
                      read.size());
  agree(model.topology(), "load_vocabulary_state", lines);
  for (const auto& [table, of_table] : read) detail::give_vocabulary(*table, of_table);
}

}  // namespace rookery
