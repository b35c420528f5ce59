// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Routing: which ids of which lookup go to which shard. Fixed when the model is placed, the same on every rank.
//
// A slot is one feature of one lookup, looked up in one table; a route is a slot and one shard of its table. Everything that is
// exchanged is laid out in route order, so no message has to say what it holds. Of a table with a copy everywhere a rank looks up its own,
// so that it has no route to any other. Where a plan is hierarchical, the sums of a node's shards of the same columns are added up on one
// rank of the node, and only that sum leaves it.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <rookery/embedding/config.hpp>
#include <rookery/embedding/table_collection.hpp>
#include <rookery/kernels/cpu/tune_prefetch.hpp>
#include <rookery/sharding/exchange_options.hpp>
#include <rookery/sharding/placement.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery::detail {

struct Slot {
  std::size_t lookup = 0;
  std::string feature;
  std::size_t table = 0;                 // of Routing::tables
  std::int64_t column = 0;               // of the lookup's output
};

/// What one lookup gives.
struct LookupLayout {
  std::string collection;                // its name in the model
  at::ScalarType dtype = at::kFloat;
  std::int64_t width = 0;                // sum(D)
  bool is_weighted = false;
  bool is_sequence = false;              // rows come back one by one
  BadIds bad_ids = BadIds::refuse;
  MissingFeatures missing_features = MissingFeatures::refuse;
  std::shared_ptr<const KeyedColumns> columns;
};

struct Route {
  std::size_t slot = 0, shard = 0;
};

/// A shard of this rank, and the routes that ask it.
struct AskedShard {
  std::size_t table = 0, shard = 0;
  std::vector<std::size_t> routes;       // numbers among those of this rank, ascending
};

struct Routing {
  std::vector<PlacedTable> tables;
  std::vector<LookupLayout> lookups;
  std::vector<Slot> slots;                            // by lookup, then feature
  std::vector<Route> routes;                          // by slot, then shard
  std::vector<std::vector<std::size_t>> routes_of;    // rank -> routes whose shard it holds, ascending; of copies this rank's own only
  std::vector<std::vector<std::size_t>> row_groups;   // routes of one slot and the same columns, by rows, which no two have in common
  std::vector<std::size_t> place;                     // per route: its number among those of its rank
  std::vector<std::vector<std::size_t>> relays;       // per route: those whose sums are added up inside its node, itself too; or none
  std::vector<AskedShard> asked;                      // by table, then shard
  std::vector<char> is_written_whole;                 // per lookup: each number of its output is one shard's, none is added up
  ExchangeOptions exchange;
  int self = 0;                                       // this rank
  c10::Device device = c10::Device(c10::DeviceType::CPU);   // where its shards are, and where the model computes
  bool has_relays = false;                            // whether any route has

  bool on_device() const { return device.type() != c10::DeviceType::CPU; }
  const PlacedTable& table_of(const Route& route) const { return tables[slots[route.slot].table]; }
  const PlacedShard& shard_of(const Route& route) const { return table_of(route).shards[route.shard]; }
  std::size_t lookup_of(std::size_t route) const { return slots[routes[route].slot].lookup; }
  const LookupLayout& layout_of(const Route& route) const { return lookups[slots[route.slot].lookup]; }
  std::int64_t element_size(const Route& route) const { return static_cast<std::int64_t>(c10::elementSize(layout_of(route).dtype)); }
  /// The dtype in which a route's vectors come back; rows of a narrow table go as they are.
  at::ScalarType value_dtype(const Route& route, bool rows) const {
    const auto weights = table_of(route).description.data_type;
    return rows && weights != compute_dtype(weights) ? weights : comm_dtype(exchange.forward_precision, layout_of(route).dtype);
  }
  /// The dtype in which their gradients go.
  at::ScalarType gradient_dtype(const Route& route) const { return comm_dtype(exchange.backward_precision, layout_of(route).dtype); }
  /// Whether the route's shard has all rows of its table, so that it is asked for every id of the slot.
  bool has_all_rows(const Route& route) const { return shard_of(route).box.rows() == table_of(route).description.num_embeddings; }

  /// Whether a rank asks by a route that is here: of a table with copies everywhere, a rank asks only itself.
  bool asks(std::size_t rank, std::size_t route) const {
    return rank == static_cast<std::size_t>(self) || !table_of(routes[route]).is_replicated;
  }

  /// Whether what a rank asks of a route stays on this rank, out of every message: nothing is rounded on its way, nor added up.
  bool stays(std::size_t route, std::size_t rank) const {
    return static_cast<int>(rank) == self && shard_of(routes[route]).rank == self && relays[route].empty() &&
           exchange.forward_precision == CommType::fp32 && exchange.backward_precision == CommType::fp32;
  }

  /// The route by which the sums of `route` come to a rank: itself, or one whose rank adds up what its node has.
  std::size_t gateway(std::size_t route, std::size_t rank) const {
    return relays[route].empty() ? route : relays[route][rank % relays[route].size()];
  }

  /// Routes in order, from slots and shards.
  void lay_out(int rank, int world_size, int local_world_size) {
    self = rank;
    if (world_size == 1) exchange = {};                                                      // nothing travels
    routes_of.resize(static_cast<std::size_t>(world_size));
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      const auto& table = tables[slots[slot].table];
      for (std::size_t shard = 0; shard < table.shards.size(); ++shard) {
        const auto holder = table.shards[shard].rank;
        if (table.is_replicated && holder != self) continue;
        auto& of_rank = routes_of[static_cast<std::size_t>(holder)];
        place.push_back(of_rank.size());
        of_rank.push_back(routes.size());
        routes.push_back({slot, shard});
      }
    }
    list_asked();
    group_by_columns();
    relays.resize(routes.size());
    for (const auto& group : row_groups)
      if (table_of(routes[group.front()]).is_hierarchical) lay_out_relays(group, local_world_size);
    if (!on_device()) tune();
    is_written_whole.assign(lookups.size(), !on_device());
    for (std::size_t r = 0; r < routes.size(); ++r)
      if (!has_all_rows(routes[r])) is_written_whole[lookup_of(r)] = 0;
  }

 private:
  /// Kernels learn from the first large table how this machine reads rows.
  [[gnu::cold]] void tune() const {
    for (const auto& one : asked) {
      const auto& storage = tables[one.table].shards[one.shard].local->storage;
      kernels::tune_prefetch(storage.dtype(), storage.weight().const_data_ptr(), storage.rows(), storage.stride(), storage.dim());
    }
  }
  void list_asked() {
    std::vector<std::size_t> first;                                                          // per table: where its shards begin
    for (std::size_t t = 0; t < tables.size(); ++t) {
      first.push_back(asked.size());
      for (std::size_t s = 0; s < tables[t].shards.size(); ++s)
        if (tables[t].shards[s].rank == self) asked.push_back({t, s, {}});
    }
    const auto& mine = routes_of[static_cast<std::size_t>(self)];
    for (std::size_t i = 0; i < mine.size(); ++i) {
      auto shard = first[slots[routes[mine[i]].slot].table];
      while (asked[shard].shard != routes[mine[i]].shard) ++shard;
      asked[shard].routes.push_back(i);
    }
  }
  void group_by_columns() {
    std::size_t first = 0;                                                                   // group of the slot
    for (std::size_t r = 0; r < routes.size(); ++r) {
      if (r > 0 && routes[r].slot != routes[r - 1].slot) first = row_groups.size();
      auto group = first;
      while (group < row_groups.size() && !have_same_columns(row_groups[group].front(), r)) ++group;
      if (group == row_groups.size()) row_groups.emplace_back().push_back(r);
      else insert_by_rows(row_groups[group], r);
    }
  }
  [[gnu::cold]] bool have_same_columns(std::size_t one, std::size_t other) const {
    const auto &a = shard_of(routes[one]).box, &b = shard_of(routes[other]).box;
    return a.column_begin == b.column_begin && a.column_end == b.column_end;
  }
  [[gnu::cold]] void insert_by_rows(std::vector<std::size_t>& group, std::size_t r) const {
    auto at = group.size();
    while (at > 0 && shard_of(routes[group[at - 1]]).box.row_begin > shard_of(routes[r]).box.row_begin) --at;
    group.insert(group.begin() + static_cast<std::ptrdiff_t>(at), r);
  }
  /// Of a group, those on one node, where there are several.
  [[gnu::cold]] void lay_out_relays(const std::vector<std::size_t>& group, int local_world_size) {
    if (group.size() == 1) return;
    const auto node_of = [&](std::size_t r) { return static_cast<std::size_t>(shard_of(routes[r]).rank / local_world_size); };
    std::vector<std::vector<std::size_t>> of_node(routes_of.size());                         // nodes are no more than ranks
    for (const auto r : group) of_node[node_of(r)].push_back(r);
    for (const auto r : group) {
      if (of_node[node_of(r)].size() == 1) continue;
      relays[r] = of_node[node_of(r)];
      has_relays = true;
    }
  }
};

/// Bytes that a row of a copied table takes in a message: its number and its gradient.
inline std::int64_t replica_row_bytes(const TableDescription& table) {
  return 8 + table.embedding_dim * static_cast<std::int64_t>(c10::elementSize(compute_dtype(table.data_type)));
}

/// Bytes of a block in a message; blocks start at multiples of 8.
inline std::int64_t padded(std::int64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace rookery::detail
