// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/plan_diff.hpp>

#include <rookery/planner/place.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

TableDescription table(const std::string& name, std::int64_t rows, std::int64_t dim) {
  return {.name = name, .table = name, .num_embeddings = rows, .embedding_dim = dim, .rule = "sgd"};
}
std::int64_t area(const ShardBox& box) { return box.rows() * box.columns(); }

const std::vector<TableDescription> tables{table("users", 10, 4), table("items", 6, 2)};
Plan plan_of(const Constraints& constraints, int ranks = 2) { return place(tables, ranks, constraints); }

}  // namespace

TEST_SUITE("planner/plan_diff") {
  TEST_CASE("what moves is said by table, part, ranks and bytes; nothing is said where nothing is other") {
    const auto whole = plan_of({{"users", {.ranks = {0}}}, {"items", {.ranks = {1}}}});
    auto turned = whole;
    std::swap(turned.tables[0], turned.tables[1]);
    CHECK(diff(whole, turned) == "");
    CHECK(diff(whole, plan_of({{"users", {.kinds = {ShardingKind::row_wise}}}, {"items", {.ranks = {0}}}})) ==
          "table users: kind table_wise -> row_wise, ranks 0 -> 0-1; 80 B move\n"
          "  rows 5-9: rank 0 -> rank 1, 80 B\n"
          "table items: ranks 1 -> 0; 48 B move\n"
          "  rows 0-5: rank 1 -> rank 0, 48 B\n"
          "moved in all: 128 B\n");
    const auto rows = plan_of({{"users", {.kinds = {ShardingKind::row_wise}}}, {"items", {.ranks = {1}}}});
    auto columns = rows;
    columns.tables[0].shards = column_wise_shards(10, 4, 2, {0, 1});
    CHECK(diff(rows, columns) ==
          "table users: kind row_wise -> column_wise; 80 B move\n"
          "  rows 5-9 columns 0-1: rank 1 -> rank 0, 40 B\n"
          "  rows 0-4 columns 2-3: rank 0 -> rank 1, 40 B\n"
          "moved in all: 80 B\n");
    CHECK(diff(rows, columns, 1).find("  and 1 more parts\n") != std::string::npos);
    auto uneven = rows;
    uneven.tables[0].shards = {{{0, 7, 0, 4}, 0}, {{7, 10, 0, 4}, 1}};
    CHECK(diff(rows, uneven).starts_with("table users: cut otherwise; 32 B move\n"));
    auto finer = rows;
    finer.tables[0].shards = {{{0, 2, 0, 4}, 0}, {{2, 5, 0, 4}, 0}, {{5, 10, 0, 4}, 1}};
    CHECK(diff(rows, finer) == "table users: shards 2 -> 3; nothing moves\n");
    auto summed = rows;
    summed.tables[0].hierarchical = true;
    CHECK(diff(rows, summed) == "table users: hierarchical false -> true; nothing moves\n");
  }
  TEST_CASE("copies move to ranks that have none, and go without a move") {
    const auto whole = plan_of({{"users", {.ranks = {1}}}, {"items", {.ranks = {1}}}});
    const auto copies = plan_of({{"users", {.kinds = {ShardingKind::data_parallel}}}, {"items", {.ranks = {1}}}});
    CHECK(diff(whole, copies) ==
          "table users: kind table_wise -> data_parallel, ranks 1 -> 0-1; 160 B move\n"
          "  rows 0-9: rank 1 -> rank 0, 160 B\n"
          "moved in all: 160 B\n");
    CHECK(diff(copies, whole) == "table users: kind data_parallel -> table_wise, ranks 0-1 -> 1; nothing moves\n");
    CHECK(diff(copies, plan_of({{"users", {.kinds = {ShardingKind::data_parallel}}}, {"items", {.ranks = {1}}}}, 3)) ==
          "ranks: 2 -> 3\n"
          "table users: ranks 0-1 -> 0-2; 160 B move\n"
          "  rows 0-9: rank 0 -> rank 2, 160 B\n"
          "moved in all: 160 B\n");
  }
  TEST_CASE("tables of another size, new and gone ones") {
    const auto before = plan_of({{"users", {.ranks = {0}}}, {"items", {.ranks = {1}}}});
    auto other = tables;
    other[0].num_embeddings = 12, other[0].rule = "adam";
    other[1].name = other[1].table = "queries";
    CHECK(diff(before, place(other, 2, {{"queries", {.ranks = {1}}}})) ==
          "table users: rows 10 -> 12, rule sgd -> adam\n"
          "table queries: new, table_wise on ranks 1\n"
          "table items: gone, table_wise on ranks 1\n");
  }
  TEST_CASE("a plan by hand is compared as it comes out for the tables of the other") {
    auto named = std::vector{table("a.users", 10, 4), table("a.items", 6, 2), table("a.tags", 8, 2)};
    for (auto& one : named) one.table = one.name.substr(2);
    const auto full = place(named, 2, {{"users", {.kinds = {ShardingKind::row_wise}}}, {"items", {.ranks = {1}}}});
    Plan by_hand{.tables = {{.table = "users", .kind = ShardingKind::row_wise},
                            {.table = "items", .kind = ShardingKind::table_wise, .ranks = {1}},
                            {.table = "tags", .kind = ShardingKind::table_wise, .ranks = {0}}}};
    CHECK(diff(by_hand, full) == "");
    CHECK(diff(full, by_hand) == "");
    by_hand.tables[0].ranks = {1, 0};
    CHECK(diff(full, by_hand) ==
          "table a.users: ranks 0-1 -> 1, 0; 160 B move\n"
          "  rows 0-4: rank 0 -> rank 1, 80 B\n"
          "  rows 5-9: rank 1 -> rank 0, 80 B\n"
          "moved in all: 160 B\n");
    by_hand.tables = {{.table = "items", .kind = ShardingKind::table_wise, .ranks = {1}}};
    CHECK(diff(full, by_hand, 1) == "table a.users: gone, row_wise on ranks 0-1\nand 1 more tables: gone\n");
    CHECK(diff(place(named, 2), Plan{}) == "");                  // which asks for the default placement
    const auto grid = place(named, 4, {{"users", {.kinds = {ShardingKind::table_row_wise}, .ranks = {2}, .hierarchical = true}}}, 2);
    const Plan on_node{.tables = {{.table = "users", .kind = ShardingKind::table_row_wise, .ranks = {2}, .hierarchical = true}}};
    CHECK(diff(on_node, grid, 0, 2) == "and 2 more tables: new\n");
    const Plan misfit{.tables = {{"users", table_wise_shards(11, 4, 0)}}};
    CHECK_THROWS_AS(diff(full, misfit), PlanError);
  }
  TEST_CASE("what a rank had and what moves to it is what it is to have, for random plans") {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      cases::Draw draw(seed);
      const std::vector<TableDescription> one{table("t", draw.integer(1, 50), draw.integer(1, 40))};
      const auto drawn = [&](int ranks) {
        const auto kind = static_cast<ShardingKind>(draw.integer(0, 6));
        const auto rank = static_cast<int>(draw.integer(0, ranks - 1));
        return place(one, ranks, {{"t", {.kinds = {kind}, .ranks = {rank}}}}, ranks % 2 == 0 ? 2 : 1);
      };
      const auto before = drawn(static_cast<int>(draw.integer(1, 6))), after = drawn(static_cast<int>(draw.integer(1, 6)));
      CHECK(diff(before, before) == "");
      const bool replicated = before.tables[0].is_replicated(one[0], before.world_size);
      std::vector<std::int64_t> needs(6);
      for (const auto& [box, rank] : after.tables[0].shards) {
        needs[static_cast<std::size_t>(rank)] += area(box);
        for (const auto& [had, holder] : before.tables[0].shards)
          if (holder == rank) {
            const ShardBox both{std::max(box.row_begin, had.row_begin), std::min(box.row_end, had.row_end),
                                std::max(box.column_begin, had.column_begin), std::min(box.column_end, had.column_end)};
            if (both.rows() > 0 && both.columns() > 0) needs[static_cast<std::size_t>(rank)] -= area(both);
          }
      }
      for (const auto& part : detail::moved_parts(before.tables[0], replicated, after.tables[0])) {
        CHECK(part.from != part.to);
        needs[static_cast<std::size_t>(part.to)] -= area(part.box);
      }
      CHECK(needs == std::vector<std::int64_t>(6));
    }
  }
}

}  // namespace rookery
