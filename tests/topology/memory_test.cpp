// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A rank allocates its own shards and nothing else: the peak of its memory while a model is placed, and in a first step, over what a
// process has that loaded LibTorch and joined the group.

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/comm/barrier.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/managed_collision.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/planner/shards.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>

#include "support/peak_memory.hpp"
#include "support/processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Set = Rules<Sgd, RowwiseAdagrad, Adam>;
using Bags = EmbeddingBagCollection<Set>;
using Table = Bags::Config;
constexpr std::int64_t mega = 1 << 20, columns = 64, per_node = 2;

/// What is placed: tables, and where their shards are.
struct Placing {
  std::string what;
  std::vector<Table> tables{};
  Plan plan{};

  void add(ShardingKind kind, std::int64_t rows, int ranks, at::ScalarType dtype, RuleChoice<Set> rule, RowAssignment ids = {}) {
    const auto name = concat(to_string(kind), tables.size());
    tables.push_back({.name = name,
                      .num_embeddings = rows,
                      .embedding_dim = columns,
                      .data_type = dtype,
                      .initial = Constant{.01},
                      .optimizer = rule,
                      .managed_collision = ids});
    const int local = std::min<int>(ranks, per_node), nodes = ranks / local;
    plan.tables.push_back({name, shards(kind, rows, ranks, local, nodes)});
  }

 private:
  static std::vector<Shard> shards(ShardingKind kind, std::int64_t rows, int ranks, int local, int nodes) {
    switch (kind) {
      case ShardingKind::data_parallel: return data_parallel_shards(rows, columns, ranks);
      case ShardingKind::table_wise: return table_wise_shards(rows, columns, ranks - 1);
      case ShardingKind::column_wise: return column_wise_shards(rows, columns, columns / ranks, consecutive_ranks(0, ranks));
      case ShardingKind::row_wise: return row_wise_shards(rows, columns, ranks);
      case ShardingKind::table_row_wise: return grid_shards(rows, columns, columns, nodes, local, nodes - 1);
      case ShardingKind::table_column_wise: return column_wise_shards(rows, columns, columns / local, consecutive_ranks(0, local));
      case ShardingKind::grid_shard: return grid_shards(rows, columns, columns / 2, nodes, local);
    }
    return {};
  }
};

/// A table of 192 MB by itself under each kind, by turns of float32 and bfloat16, with state of an element, of a row and without; then all
/// kinds in one model, and rows given to ids by a vocabulary.
std::vector<Placing> placings(int ranks) {
  const std::vector<RuleChoice<Set>> rules{Adam{}, RowwiseAdagrad{}, Sgd{}};
  std::vector<Placing> all;
  Placing mixed{"all kinds"};
  for (std::size_t k = 0; k < sharding_kind_names.size(); ++k) {
    const auto kind = static_cast<ShardingKind>(k);
    const auto dtype = k % 2 == 0 ? at::kBFloat16 : at::kFloat;
    const auto row = columns * static_cast<std::int64_t>(c10::elementSize(dtype));
    Placing alone{std::string(to_string(kind))};
    alone.add(kind, 192 * mega / row, ranks, dtype, rules[k % rules.size()]);
    all.push_back(std::move(alone));
    mixed.add(kind, 40 * mega / row, ranks, dtype, rules[(k + 1) % rules.size()]);
  }
  all.push_back(std::move(mixed));
  Placing managed{"managed collision"};
  managed.add(ShardingKind::row_wise, mega, ranks, at::kFloat, RowwiseAdagrad{}, ManagedCollision{.buckets = 64});
  all.push_back(std::move(managed));
  return all;
}

/// 32 rows of two ids a table.
KeyedJaggedTensor small_batch(const std::vector<Table>& tables) {
  std::vector<std::string> keys;
  for (const auto& table : tables) keys.push_back(table.name);
  const auto bags = 32 * static_cast<std::int64_t>(keys.size());
  std::int64_t rows = tables.front().num_embeddings;
  for (const auto& table : tables) rows = std::min(rows, table.num_embeddings);
  const auto ids = at::arange(2 * bags, at::kLong).mul(99'991).remainder(rows);              // [2 * bags]
  return KeyedJaggedTensor::from_lengths(std::move(keys), ids,
                                         at::ones({bags}, at::kLong).mul(2));
}

/// Places, and makes two steps; what took more memory than it may.
template <class Topology> std::string check_memory(Topology& topology, const Placing& placing) {
  std::string wrong;
  const auto bound = [&](const char* when, std::int64_t grown, double allowed) {
    if (static_cast<double>(grown) > allowed)
      wrong += concat(placing.what, ", ", when, ": grew by ", grown / mega, " MB, allowed ", allowed / mega, " MB\n");
  };
  const cases::PeakMemory whole;
  auto model = ShardingPolicy<Topology>(topology, {.plan = placing.plan}).apply(Bags(placing.tables));
  std::int64_t weights = 0, bytes = 0;                           // of this rank's shards, without and with state
  for (const auto& table : model.tables())
    for (const auto& shard : table.shards)
      if (shard.local) {
        bytes += table.description.bytes(shard.box.rows(), shard.box.columns());
        weights += shard.box.rows() * shard.box.columns() * static_cast<std::int64_t>(c10::elementSize(table.description.data_type));
      }
  const auto start = whole.growth();
  if (static_cast<double>(start) < .9 * static_cast<double>(weights)) wrong += concat(placing.what, ": grew by less than its weights\n");
  bound("at start", start, 1.1 * static_cast<double>(weights) + 16 * mega);

  Optimizer step(model, Sgd{});
  for (const bool first : {true, false}) {
    const cases::PeakMemory one;
    model(small_batch(placing.tables)).values().sum().backward();
    step();
    const auto state = first ? static_cast<double>(bytes - weights) : 0;   // its pages come with the rows that are reached
    bound(first ? "in the first step" : "in the second step", one.growth(), state + 16 * mega);
  }
  bound("in all", whole.growth(), 1.1 * static_cast<double>(bytes) + 64 * mega);
  return wrong;
}

template <class Topology> std::string check_all(Topology& topology, int ranks) {
  Placing warm{"warming up"};
  warm.add(ShardingKind::row_wise, 8 * ranks, ranks, at::kFloat, Adam{});
  check_memory(topology, warm);
  std::string wrong;
  for (const auto& placing : placings(ranks)) {
    if constexpr (Topology::is_distributed) barrier(topology);
    wrong += check_memory(topology, placing);
  }
  return wrong;
}

[[maybe_unused]] const bool listed = cases::roles().emplace("memory", +[] {
  return cases::play([](Gloo& topology) { return check_all(topology, topology.world_size()); }, per_node);
}).second;

}  // namespace

TEST_SUITE("topology/memory") {
  TEST_CASE("a process allocates its shards and nothing else, at start and in a step, under every kind") {
    if (!cases::PeakMemory().is_known()) return;
    for (const int ranks : {2, 4}) {
      const auto ended = cases::run_processes("memory", ranks);
      CHECK_MESSAGE(ended.status == 0, ended.said);
      }
  }
  TEST_CASE("so does one process alone") {
    if (!cases::PeakMemory().is_known()) return;
    Local topology;
    CHECK(check_all(topology, 1) == "");
  }
}

}  // namespace rookery
