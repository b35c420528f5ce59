// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableView: the rows of one table of a placed model, read and written by id, wherever they live.
//
//   model.table("item_id").rows(ids)                           // [n, D]
//
// For inspection, exports and small edits; training goes through lookups. Answers to reading embedding_bags.<t>.weight of a
// torchrec module, which a sharded one does not have.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/placement.hpp>

namespace rookery {

namespace detail {

/// Ids [n] on the host as int64. Errors: ShapeError.
inline at::Tensor checked_ids(const at::Tensor& ids, const TableDescription& table) {
  check<ShapeError>(ids.dim() == 1 && (ids.scalar_type() == at::kLong || ids.scalar_type() == at::kInt), "table '", table.name,
                    "': ids of shape ", ids.sizes(), " and dtype ", c10::toString(ids.scalar_type()), "; give int64 [n]");
  return ids.to(at::kCPU, at::kLong).contiguous();                                           // [n]
}

/// As checked_ids. Errors: IndexError for an id that the table has no row for.
inline at::Tensor checked_rows(const at::Tensor& ids, const TableDescription& table) {
  auto rows = checked_ids(ids, table);                                                       // [n]
  const auto* id = rows.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < rows.numel(); ++i)
    check<IndexError>(table.has_row(id[i]), "table '", table.name, "': id ", id[i], " at position ", i,
                      "; the table has ", table.num_embeddings, " rows");
  return rows;
}

/// Values [n, D] as a table can hold them, in its compute_dtype on the host.
/// Errors: NonFiniteError for one that is not finite, or is not any more in the table's dtype.
inline at::Tensor checked_values(const at::Tensor& values, const at::Tensor& ids, const TableDescription& table) {
  const auto kept = values.to(at::kCPU, table.data_type);                                    // [n, D]
  const auto seen = kept.to(at::kDouble).contiguous();                                       // [n, D]
  const auto* value = seen.const_data_ptr<double>();
  for (std::int64_t i = 0; i < seen.numel(); ++i)
    if (!std::isfinite(value[i])) {
      const auto row = i / table.embedding_dim, column = i % table.embedding_dim;
      fail<NonFiniteError>("table '", table.name, "': value ", values[row][column].item<double>(), " at position ", row, ", column ",
                           column, ", for id ", ids[row].item<std::int64_t>(), "; ", c10::toString(table.data_type),
                           " rows take finite values within its range; nothing was written");
    }
  return kept.to(compute_dtype(table.data_type)).contiguous();                               // [n, D]
}

/// Rows [n, D] of a weight on any device by their numbers [n] on the host.
inline at::Tensor picked(const at::Tensor& weight, const at::Tensor& rows) { return weight.index_select(0, rows.to(weight.device())); }

/// Calls `fn(positions, rows, shard)` for each shard here: which of `ids` lie in it, and in which of its rows, both int64 [m].
template <class Fn> void for_rows_here(const PlacedTable& table, const at::Tensor& ids, Fn&& fn) {
  for (const auto& shard : table.shards) {
    if (!shard.local) continue;
    const auto positions = ids.ge(shard.box.row_begin).logical_and_(ids.lt(shard.box.row_end)).nonzero().squeeze(1);   // [m]
    fn(positions, ids.index_select(0, positions).sub_(shard.box.row_begin), shard);
  }
}

}  // namespace detail

template <class Placed> class VocabularyView;

/// One table of a placed model, which outlives the view.
///
/// Ranks:   every member function is called by all, in the same order; each rank may give other ids, or none.
template <class Placed> class TableView {
 public:
  TableView(Placed& model, std::string_view name) : model_(&model), table_(&model.tables()[detail::table_number(model.tables(), name)]) {}

  const TableDescription& description() const { return table_->description; }

  /// The rows of these ids, [n, D] of the table's compute_dtype, a copy on the host. Under managed collision an id here is a row's number,
  /// and rows_of_ids takes ids.
  /// Errors:  IndexError naming id and position.
  /// Cost:    every rank sees the rows that all ask for: for some thousands.
  at::Tensor rows(const at::Tensor& ids) const {
    const at::NoGradGuard no_grad;
    const auto gathered = all_gather_v(model_->topology(), detail::checked_rows(ids, description())).wait();
    Counts counts;
    for (const auto& one : gathered) counts.push_back(one.numel());
    const auto all = ops::cat(gathered);                                                     // [N]
    auto found = ops::zeros({all.numel(), description().embedding_dim}, compute_dtype(description().data_type));  // [N, D]
    detail::for_rows_here(*table_, all, [&](const at::Tensor& positions, const at::Tensor& local, const PlacedShard& shard) {
      if (!table_->is_primary(shard)) return;
      found.narrow(1, shard.box.column_begin, shard.box.columns())
          .index_copy_(0, positions, detail::picked(shard.local->storage.weight(), local).to(found.options()));
    });
    return reduce_scatter_v(model_->topology(), std::move(found), counts).wait();            // [n, D]
  }

  /// Gives rows new values, [n, D]; optimizer state stays. Of an id given twice the last values hold, of several ranks the last rank's.
  /// Errors:  as rows; ShapeError for values of another shape; NonFiniteError for a value that the table's dtype holds as infinite or
  ///          NaN, on every rank before anything is written.
  void write(const at::Tensor& ids, const at::Tensor& values) const {
    const at::NoGradGuard no_grad;
    const auto own = detail::checked_rows(ids, description());
    check<ShapeError>(values.dim() == 2 && values.size(0) == own.numel() && values.size(1) == description().embedding_dim, "table '",
                      description().name, "': values of shape ", values.sizes(), " for ", own.numel(), " rows of ",
                      description().embedding_dim);
    auto own_values = detail::checked_values(values, own, description());                    // [n, D]
    const auto all_ids = all_gather_v(model_->topology(), own).wait();
    const auto all_values = all_gather_v(model_->topology(), std::move(own_values)).wait();
    for (std::size_t rank = 0; rank < all_ids.size(); ++rank)
      detail::for_rows_here(*table_, all_ids[rank], [&](const at::Tensor& positions, const at::Tensor& local, const PlacedShard& shard) {
        auto weight = shard.local->storage.weight();
        const auto part =
            all_values[rank].narrow(1, shard.box.column_begin, shard.box.columns()).index_select(0, positions).to(weight.options());
        const auto* row = local.const_data_ptr<std::int64_t>();
        for (std::int64_t i = 0; i < local.numel(); ++i) weight.select(0, row[i]).copy_(part.select(0, i));
      });
  }

  /// Under managed collision: which id has which row, saved and loaded. Errors: ConfigError for a table without.
  /// Needs `rookery/sharding/vocabulary_view.hpp`.
  VocabularyView<Placed> vocabulary() const { return {*model_, *table_}; }
  /// Under managed collision: the rows of any ids, [n, D], as lookups read them now; an id without a row of its own gives the one that it
  /// shares. Needs the same header. Cost: as rows, and another round for the rows' numbers.
  at::Tensor rows_of_ids(const at::Tensor& ids) const { return rows(vocabulary().remap(ids)); }

  /// All weights [E, D]; one slot of optimizer state [E] or [E, D]. Cost: the whole table on every rank.
  at::Tensor weight() const { return gather_table(*model_, description().name); }
  at::Tensor state(std::string_view slot) const { return gather_state(*model_, description().name, slot); }

 private:
  Placed* model_;
  const PlacedTable* table_;
};

}  // namespace rookery
