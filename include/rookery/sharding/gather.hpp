// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// gather_table and gather_state: a whole table, or one slot of its optimizer state, put together from its shards.
//
// For tests, inspection and small exports: every rank ends up with a full copy. Answers to torchrec's
// ShardedTensor.gather and state_dict of a sharded module.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_gather_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sharding/placement.hpp>

namespace rookery {

namespace detail {

/// The number of a table by its full name, with or without ".weight", or by its config's name where that is unique. Errors: IndexError
/// that lists the tables there are.
inline std::size_t table_number(const std::vector<PlacedTable>& tables, std::string_view name) {
  constexpr std::string_view suffix = ".weight";
  const auto without = name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name;
  std::size_t number = 0, named = 0;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    if (tables[t].description.name == name || tables[t].description.name == without) return t;
    if (tables[t].description.table != name) continue;
    number = t;
    ++named;
  }
  if (named == 0) {
    std::vector<std::string> names;
    for (const auto& table : tables) names.push_back(table.description.name);
    fail<IndexError>("no table '", name, "' in the model; there are ", names);
  }
  check<IndexError>(named == 1, "'", name, "' names ", named, " tables of the model; give the full name");
  return number;
}

/// Puts the shards of a table together on the host: `local(shard)` gives what this rank's shard holds, [rows, columns] or [rows].
template <class Topology, class Local>
at::Tensor gather_shards(Topology& topology, const PlacedTable& table, std::vector<std::int64_t> shape, at::ScalarType dtype,
                         Local&& local) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> own{ops::empty({0}, dtype)};
  for (const auto& shard : table.shards)
    if (shard.local && table.is_primary(shard))
      own.push_back(local(shard.local->storage).to(at::kCPU).reshape({-1}));                 // [rows * columns] or [rows]
  const auto of_rank = all_gather_v(topology, ops::cat(own)).wait();                         // W tensors
  std::vector<std::int64_t> taken(of_rank.size());
  auto whole = ops::empty(shape, dtype);                               // [E, D] or [E]
  for (const auto& shard : table.shards) {
    if (!table.is_primary(shard)) continue;
    auto part = whole.narrow(0, shard.box.row_begin, shard.box.rows());
    if (part.dim() == 2) part = part.narrow(1, shard.box.column_begin, shard.box.columns());
    auto& begin = taken[static_cast<std::size_t>(shard.rank)];
    part.copy_(of_rank[static_cast<std::size_t>(shard.rank)].narrow(0, begin, part.numel()).view(part.sizes()));
    begin += part.numel();
  }
  return whole;
}

}  // namespace detail

/// All weights of a table of a placed model, the same on every rank, on the host.
///
/// `name` is the full name, "user.embedding_bags.user_id", or the config's name where that is unique.
/// Shapes:  -> [E, D], of the table's dtype, a copy.
/// Errors:  IndexError when no table, or several, have the name; ConfigError when ranks ask for different ones.
/// Cost:    one all-gather of the whole table; the table's bytes on every rank.
/// Ranks:   all, in the same order.
template <class Placed> at::Tensor gather_table(Placed& model, std::string_view name) {
  const auto& table = model.tables()[detail::table_number(model.tables(), name)];
  agree(model.topology(), "gather_table", table.description.name);
  return detail::gather_shards(model.topology(), table, {table.description.num_embeddings, table.description.embedding_dim},
                               table.description.data_type, [](const TableStorage& storage) { return storage.weight(); });
}

/// One slot of a table's optimizer state, such as "momentum1", the same on every rank, on the host.
///
/// Shapes:  -> [E, D] for a slot of one number a weight, [E] for one a row; of the table's compute_dtype, a copy.
/// Errors:  IndexError as gather_table, and when the table's rule has no such slot (a frozen table has none).
/// Cost:    as gather_table.
/// Ranks:   all, in the same order.
template <class Placed> at::Tensor gather_state(Placed& model, std::string_view name, std::string_view slot) {
  const auto number = detail::table_number(model.tables(), name);
  const auto& table = model.tables()[number];
  std::vector<StateSlot> slots;
  model.for_each_collection([&](std::string_view, const auto& collection, std::size_t first) {
    if (number < first || number >= first + collection.configs().size()) return;
    const auto& config = collection.configs()[number - first];
    if (config.frozen) return;
    config.optimizer.visit([&](const auto& rule) { slots.assign(rule.state.begin(), rule.state.end()); });
  });
  const auto found = std::find_if(slots.begin(), slots.end(), [&](const StateSlot& one) { return one.name == slot; });
  check<IndexError>(found != slots.end(), "table '", table.description.name, "' under '", table.description.rule, "' has no state '", slot,
                    "'");
  agree(model.topology(), "gather_state", concat(table.description.name, ".", slot));
  std::vector<std::int64_t> shape{table.description.num_embeddings};
  if (found->shape == StateShape::element) shape.push_back(table.description.embedding_dim);
  return detail::gather_shards(model.topology(), table, std::move(shape), compute_dtype(table.description.data_type),
                               [&](const TableStorage& storage) { return storage.state(static_cast<std::size_t>(found - slots.begin())); });
}

}  // namespace rookery
