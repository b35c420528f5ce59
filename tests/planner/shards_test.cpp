// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/shards.hpp>

#include <rookery/planner/place.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

using Numbers = std::vector<std::int64_t>;

/// Rows of each shard, in order.
Numbers rows_of(const std::vector<Shard>& shards) {
  Numbers rows;
  for (const auto& shard : shards) rows.push_back(shard.box.rows());
  return rows;
}
Numbers ranks_of(const std::vector<Shard>& shards) {
  Numbers ranks;
  for (const auto& shard : shards) ranks.push_back(shard.rank);
  return ranks;
}
/// Columns of each shard of a table of so many columns.
Numbers columns_of(std::int64_t columns, std::int64_t partition) {
  Numbers found;
  for (const auto& shard : column_wise_shards(7, columns, partition, {0})) {
    CHECK(shard.box.rows() == 7);
    found.push_back(shard.box.columns());
  }
  return found;
}
TableDescription table(const std::string& name, std::int64_t rows, std::int64_t dim) {
  return {.name = "embedding_bags." + name, .table = name, .num_embeddings = rows, .embedding_dim = dim, .rule = "sgd"};
}
/// The shards that a kind gives the one table "t" of [rows, dim], beside "other" where that is on rank 0.
std::vector<Shard> placed(std::int64_t rows, std::int64_t dim, int world_size, int local_world_size, ParameterConstraints asked) {
  const std::vector tables{table("other", 100, 100), table("t", rows, dim)};
  const auto plan = place(tables, world_size, {{"other", {.ranks = {0}}}, {"t", std::move(asked)}}, local_world_size);
  validate(plan, tables, world_size);
  return plan.of(tables[1]).shards;
}

}  // namespace

TEST_SUITE("planner/shards") {
  TEST_CASE("kinds are named as TorchRec does, both ways") {
    CHECK(to_string(ShardingKind::data_parallel) == "data_parallel");
    CHECK(to_string(ShardingKind::grid_shard) == "grid_shard");
    for (const auto name : sharding_kind_names) CHECK(to_string(sharding_kind(name)) == name);
    CHECK_THROWS_WITH_AS(sharding_kind("rowwise"),
                         "no sharding kind 'rowwise'; there are [data_parallel, table_wise, column_wise, row_wise, table_row_wise, "
                         "table_column_wise, grid_shard]",
                         ConfigError);
  }

  TEST_CASE("A20 blocks of rows, and of buckets: the first ranks hold one bucket more") {
    CHECK(rows_of(row_wise_shards(10, 1, 4)) == Numbers{3, 3, 3, 1});
    CHECK(rows_of(row_wise_shards(100, 1, 8, 10)) == Numbers{20, 20, 10, 10, 10, 10, 10, 10});
    CHECK(rows_of(row_wise_shards(130, 1, 8, 13)) == Numbers{26, 26, 13, 13, 13, 13, 13, 13});
    Numbers offsets;
    for (const auto& shard : row_wise_shards(100, 1, 8, 10)) offsets.push_back(shard.box.row_begin);
    CHECK(offsets == Numbers{0, 20, 40, 50, 60, 70, 80, 90});
    CHECK(rows_of(row_wise_shards(6, 1, 4, 3)) == Numbers{3, 3});
  }

  TEST_CASE("A21 blocks of columns") {
    CHECK(columns_of(20, column_partition(20, 20)) == Numbers{20});
    CHECK(columns_of(40, column_partition(40, 20)) == Numbers{20, 20});
    CHECK(columns_of(60, column_partition(60, 20)) == Numbers{20, 20, 20});
    CHECK(columns_of(80, column_partition(80, 40)) == Numbers{40, 40});
    CHECK(columns_of(10, column_partition(10, 3)) == Numbers{10});   // 4 and 8 do not divide it
    CHECK(columns_of(24, column_partition(24, 5)) == Numbers{8, 8, 8});
    CHECK(columns_of(4, column_partition(4, 100)) == Numbers{4});
    CHECK(columns_of(10, even_column_partition(10, 3)) == Numbers{4, 4, 2});
    CHECK(columns_of(3, even_column_partition(3, 2)) == Numbers{3});
    CHECK(columns_of(64, even_column_partition(64, 4)) == Numbers{16, 16, 16, 16});
  }

  TEST_CASE("data_parallel: a copy on every rank, which is no copy on one") {
    const auto copies = placed(5, 3, 3, 3, {.kinds = {ShardingKind::data_parallel}});
    CHECK(ranks_of(copies) == Numbers{0, 1, 2});
    for (const auto& copy : copies) CHECK((copy.box.rows() == 5 && copy.box.columns() == 3));
    CHECK(TablePlan{"t", copies}.is_replicated(table("t", 5, 3), 3));
    CHECK(!TablePlan{"t", copies}.is_replicated(table("t", 5, 4), 3));
    CHECK(!TablePlan{"t", table_wise_shards(5, 3, 0)}.is_replicated(table("t", 5, 3), 1));
    const std::vector tables{table("t", 5, 3)};
    auto plan = place(tables, 3, {{"t", {.kinds = {ShardingKind::data_parallel}}}});
    CHECK(plan.report().starts_with("plan: 1 table on 3 ranks\n"
                                    "  embedding_bags.t  [5, 3] Float sgd  60 bytes  on every rank\n"
                                    "  bytes by rank [60, 60, 60]\n"));
    plan.tables[0].shards.pop_back();
    CHECK_THROWS_WITH_AS(validate(plan, tables, 3), "Plan: table 'embedding_bags.t' has shards 0 and 1 that overlap", PlanError);
  }

  TEST_CASE("column_wise: each block where least lies, or on the ranks asked for in turn") {
    CHECK(ranks_of(placed(10, 64, 4, 4, {.kinds = {ShardingKind::column_wise}})) == Numbers{1, 2, 3, 1});
    CHECK(ranks_of(placed(10, 64, 4, 4, {.kinds = {ShardingKind::column_wise}, .ranks = {3, 0}})) == Numbers{3, 0, 3, 0});
    CHECK(ranks_of(placed(10, 64, 4, 4, {.kinds = {ShardingKind::column_wise}, .min_partition = 32})) == Numbers{1, 2});
  }

  TEST_CASE("kinds on nodes: rows or columns over the ranks of the node that holds least, or that a rank is on") {
    const auto rows = placed(10, 8, 8, 4, {.kinds = {ShardingKind::table_row_wise}});
    CHECK(ranks_of(rows) == Numbers{4, 5, 6, 7});
    CHECK(rows_of(rows) == Numbers{3, 3, 3, 1});
    CHECK(ranks_of(placed(10, 8, 8, 4, {.kinds = {ShardingKind::table_row_wise}, .ranks = {2}})) == Numbers{0, 1, 2, 3});
    CHECK(ranks_of(placed(10, 16, 8, 4, {.kinds = {ShardingKind::table_column_wise}})) == Numbers{4, 5, 6, 7});
    const auto grid = placed(6, 16, 4, 2, {.kinds = {ShardingKind::grid_shard}});
    CHECK(ranks_of(grid) == Numbers{2, 3, 0, 1});
    CHECK(rows_of(grid) == Numbers{3, 3, 3, 3});
    CHECK((grid[0].box.column_begin == 0 && grid[0].box.column_end == 8 && grid[2].box.column_begin == 8));
    CHECK_THROWS_WITH_AS(place({}, 6, {}, 4), "Plan: 6 ranks on nodes of 4; every node must have as many", PlanError);
  }

  TEST_CASE("row_wise takes the ranks asked for") {
    const auto shards = placed(10, 2, 4, 4, {.kinds = {ShardingKind::row_wise}, .ranks = {3, 1}});
    CHECK(ranks_of(shards) == Numbers{3, 1});
    CHECK(rows_of(shards) == Numbers{5, 5});
  }
  TEST_CASE("column shards of no columns, and on no ranks, are refused") {
    CHECK_THROWS_WITH_AS(column_wise_shards(9, 1, 1 / 4, {0, 1}), "column shards of 0 columns; there must be one at least", PlanError);
    CHECK_THROWS_WITH_AS(grid_shards(9, 1, 0, 2, 2), "column shards of 0 columns; there must be one at least", PlanError);
    CHECK_THROWS_AS(column_wise_shards(9, 8, 4, {}), PlanError);
  }
}

}  // namespace rookery
