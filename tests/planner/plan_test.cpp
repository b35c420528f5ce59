// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/plan.hpp>

#include <rookery/planner/place.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Rows = std::vector<std::int64_t>;

TableDescription table(const std::string& name, std::int64_t rows, std::int64_t dim = 4, const std::string& collection = "") {
  return {.name = concat(collection, collection.empty() ? "" : ".", "embedding_bags.", name),
          .table = name,
          .num_embeddings = rows,
          .embedding_dim = dim,
          .rule = "sgd"};
}

/// Rows on each rank of a row_wise split.
Rows row_wise(std::int64_t rows, int ranks) {
  Rows held(static_cast<std::size_t>(ranks));
  std::int64_t next = 0;
  for (const auto& [box, rank] : row_wise_shards(rows, 3, ranks)) {
    CHECK(box.row_begin == next);
    CHECK(box.column_begin == 0);
    CHECK(box.column_end == 3);
    next = box.row_end;
    held[static_cast<std::size_t>(rank)] += box.rows();
  }
  CHECK(next == rows);
  return held;
}

std::vector<int> ranks_of(const Plan& plan, const TableDescription& one) {
  std::vector<int> ranks;
  for (const auto& shard : plan.of(one).shards) ranks.push_back(shard.rank);
  return ranks;
}

const std::vector<TableDescription> two_tables{table("user_id", 10, 4, "user"), table("item_id", 6, 2, "item")};

/// A plan for the two tables with these shards of the first.
Plan with_shards(std::vector<Shard> shards, const std::string& name = "user_id") {
  return {.tables = {{name, std::move(shards)}, {"item_id", table_wise_shards(6, 2, 0)}}};
}
void refuse(const Plan& plan, const std::string& sentence, const std::vector<TableDescription>& tables = two_tables) {
  CHECK_THROWS_WITH_AS(validate(plan, tables, 2), sentence.c_str(), PlanError);
}

}  // namespace

TEST_SUITE("planner/plan") {
  TEST_CASE("B10 tables whose bytes int64 cannot hold are refused with their numbers") {
    const auto huge = std::int64_t{1} << 60;
    const auto check = [](const std::vector<TableDescription>& tables) {
      Plan plan;
      for (const auto& one : tables) plan.tables.push_back({one.name, table_wise_shards(one.num_embeddings, one.embedding_dim, 0)});
      validate(plan, tables, 1);
    };
    CHECK_THROWS_WITH_AS(check({table("t", huge, 15)}),
                         "Plan: table 'embedding_bags.t' is [1152921504606846976, 15] of Float; with the tables before it, it needs more "
                         "than 2^63 bytes",
                         ConfigError);
    CHECK_THROWS_AS(check({table("t", huge, 16)}), ConfigError);
    CHECK_THROWS_AS(check({table("a", huge, 1), table("b", huge, 1)}), ConfigError);
    CHECK_NOTHROW(check({table("a", huge, 1), table("b", huge / 2, 1)}));
    CHECK(table("wide", 1, huge / 2).bytes() == 2 * huge);                          // no product on the way is larger
    CHECK(table("wide", 1, huge / 2).bytes(1, huge / 4) == huge);
  }
  TEST_CASE("A20 blocks of rows") {
    CHECK(row_wise(10, 4) == Rows{3, 3, 3, 1});
    CHECK(row_wise(5, 4) == Rows{2, 2, 1, 0});
    CHECK(row_wise(100, 8) == Rows{13, 13, 13, 13, 13, 13, 13, 9});
    CHECK(row_wise(110, 8) == Rows{14, 14, 14, 14, 14, 14, 14, 12});
    CHECK(row_wise(120, 8) == Rows(8, 15));
    CHECK(row_wise(130, 8) == Rows{17, 17, 17, 17, 17, 17, 17, 11});
    CHECK(row_wise(1, 3) == Rows{1, 0, 0});
    CHECK(row_wise(7, 1) == Rows{7});
  }
  TEST_CASE("right plans pass: whole tables, blocks of rows, columns, any grid; by full name or the config's") {
    validate(with_shards(table_wise_shards(10, 4, 1)), two_tables, 2);
    validate(with_shards(row_wise_shards(10, 4, 2), "user.embedding_bags.user_id"), two_tables, 2);
    validate(with_shards({{{0, 10, 0, 1}, 0}, {{0, 10, 1, 4}, 0}}), two_tables, 2);
    validate(with_shards({{{0, 3, 0, 4}, 1}, {{3, 10, 2, 4}, 0}, {{3, 10, 0, 2}, 1}}), two_tables, 2);
  }
  TEST_CASE("B11 a plan that does not cover its tables exactly is refused with the table and the numbers") {
    const std::string full = "user.embedding_bags.user_id";
    refuse(with_shards({{{0, 6, 0, 4}, 0}, {{5, 10, 0, 4}, 1}}), concat("Plan: table '", full, "' has shards 0 and 1 that overlap"));
    refuse(with_shards({{{0, 10, 0, 3}, 0}, {{2, 3, 2, 4}, 1}}), concat("Plan: table '", full, "' has shards 0 and 1 that overlap"));
    refuse(with_shards({{{0, 5, 0, 4}, 0}, {{6, 10, 0, 4}, 1}}), concat("Plan: table '", full, "' has 40 weights and its shards cover 36"));
    refuse(with_shards({}), concat("Plan: table '", full, "' has 40 weights and its shards cover 0"));
    for (const ShardBox& box :
         std::vector<ShardBox>{{0, 11, 0, 4}, {-1, 10, 0, 4}, {0, 10, 0, 5}, {0, 10, -1, 4}, {4, 4, 0, 4}, {7, 3, 0, 4}, {0, 10, 4, 4}})
      refuse(with_shards({{box, 0}}), concat("Plan: table '", full, "' of [10, 4] has a shard of rows ", box.row_begin, " to ", box.row_end,
                                             " and columns ", box.column_begin, " to ", box.column_end));
    refuse(with_shards(table_wise_shards(10, 4, 2)), concat("Plan: table '", full, "' has a shard on rank 2 of 2"));
    refuse(with_shards(table_wise_shards(10, 4, -1)), concat("Plan: table '", full, "' has a shard on rank -1 of 2"));
  }
  TEST_CASE("B11 names that fit no table, several, or are given twice are refused") {
    auto plan = with_shards(table_wise_shards(10, 4, 0));
    plan.tables.push_back({"usr_id", table_wise_shards(10, 4, 0)});
    refuse(plan, "Plan: table 'usr_id' is not in the model");
    plan.tables.back().table = "user_id";
    refuse(plan, "Plan: table 'user.embedding_bags.user_id' is planned 2 times");
    plan.tables.back().table = "user.embedding_bags.user_id";
    refuse(plan, "Plan: table 'user.embedding_bags.user_id' is planned 2 times");
    plan.tables.pop_back();
    plan.tables.erase(plan.tables.begin());
    refuse(plan, "Plan: there is none for table 'user.embedding_bags.user_id'");
    const std::vector<TableDescription> same_name{table("id", 4, 1, "user"), table("id", 4, 1, "item")};
    refuse({.tables = {{"id", table_wise_shards(4, 1, 0)}}}, "Plan: 'id' names 2 tables; give the full name", same_name);
    validate({.tables = {{"user.embedding_bags.id", table_wise_shards(4, 1, 0)}, {"item.embedding_bags.id", table_wise_shards(4, 1, 1)}}},
             same_name, 2);
  }
  TEST_CASE("a random grid is right, and wrong as soon as one shard is moved, left out or given twice") {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      cases::Draw draw(seed);
      const std::vector<TableDescription> tables{table("t", draw.integer(2, 20), draw.integer(1, 10))};
      const auto row = draw.integer(1, tables[0].num_embeddings - 1);
      std::vector<Shard> shards;
      for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, row}, {row, tables[0].num_embeddings}}) {
        const auto column = draw.integer(0, tables[0].embedding_dim);
        if (column > 0) shards.push_back({{begin, end, 0, column}, 0});
        if (column < tables[0].embedding_dim) shards.push_back({{begin, end, column, tables[0].embedding_dim}, 0});
      }
      const auto valid = [&](std::vector<Shard> changed) { validate({.tables = {{"t", std::move(changed)}}}, tables, 1); };
      CHECK_NOTHROW(valid(shards));
      auto changed = shards;
      changed.erase(changed.begin() + draw.integer(0, static_cast<std::int64_t>(shards.size()) - 1));
      CHECK_THROWS_AS(valid(changed), PlanError);
      changed = shards;
      changed.push_back(draw.one_of(shards));
      CHECK_THROWS_AS(valid(changed), PlanError);
      changed = shards;
      auto& box = changed[static_cast<std::size_t>(draw.integer(0, static_cast<std::int64_t>(shards.size()) - 1))].box;
      (draw.chance(.5) ? box.row_end : box.column_begin) += draw.chance(.5) ? 1 : -1;
      CHECK_THROWS_AS(valid(changed), PlanError);
    }
  }
  TEST_CASE("the report has a line for each table and the bytes of each rank") {
    std::vector<TableDescription> tables{table("user_id", 10, 4, "user"), table("i", 6, 2, "item")};
    tables[0].rule = "rowwise_adagrad";
    tables[0].state_numbers_per_row = 1;
    auto plan = place(tables, 2, {{"user_id", {.kinds = {ShardingKind::row_wise}}}});
    const auto hash = [&] { return detail::hexadecimal(plan.hash()); };
    CHECK(plan.report() ==
          "plan: 2 tables on 2 ranks\n"
          "  user.embedding_bags.user_id  [10, 4] Float rowwise_adagrad  200 bytes  on rank 0 rows 0-4, rank 1 rows 5-9\n"
          "  item.embedding_bags.i        [6, 2] Float sgd  48 bytes  on rank 0\n"
          "  bytes by rank [148, 100]\n"
          "  hash " + hash());
    plan = place(std::vector{table("t", 2, 8)}, 1);
    plan.tables[0].shards = {{{0, 2, 0, 3}, 0}, {{0, 2, 3, 8}, 0}};
    CHECK(plan.report() ==
          "plan: 1 table on 1 rank\n"
          "  embedding_bags.t  [2, 8] Float sgd  64 bytes  on rank 0 rows 0-1 columns 0-2, rank 0 rows 0-1 columns 3-7\n"
          "  bytes by rank [64]\n"
          "  hash " + hash());
  }
  TEST_CASE("the hash of a plan is the same on every machine and in any order of tables; every number and name of it counts") {
    const auto plan = place(two_tables, 2, {{"user_id", {.kinds = {ShardingKind::row_wise}}}});
    CHECK(detail::hexadecimal(plan.hash()) == "e8714307d802690d");                    // Python wrote it down, from FNV-1a and splitmix64
    auto turned = plan;
    std::swap(turned.tables[0], turned.tables[1]);
    CHECK(turned.hash() == plan.hash());
    std::swap(turned.descriptions[0], turned.descriptions[1]);
    CHECK(turned.hash() == plan.hash());
    const auto differs = [&](auto change) {
      auto other = plan;
      change(other);
      CHECK(other.hash() != plan.hash());
    };
    differs([](Plan& p) { p.world_size = 3; });
    differs([](Plan& p) { p.tables[0].table += "_"; });
    differs([](Plan& p) { std::swap(p.tables[0].table, p.tables[1].table); });
    differs([](Plan& p) { std::swap(p.tables[0].shards[0], p.tables[0].shards[1]); });
    differs([](Plan& p) { p.tables[0].shards.pop_back(); });
    for (int bit = 0; bit < 6; ++bit) {
      differs([&](Plan& p) { p.tables[0].shards[1].rank ^= 1 << bit; });
      differs([&](Plan& p) { p.tables[0].shards[1].box.row_begin ^= 1 << bit; });
      differs([&](Plan& p) { p.tables[0].shards[1].box.row_end ^= 1 << bit; });
      differs([&](Plan& p) { p.tables[0].shards[1].box.column_begin ^= 1 << bit; });
      differs([&](Plan& p) { p.tables[0].shards[1].box.column_end ^= 1 << bit; });
      differs([&](Plan& p) { p.descriptions[1].num_embeddings ^= 1 << bit; });
      differs([&](Plan& p) { p.descriptions[1].embedding_dim ^= 1 << bit; });
      differs([&](Plan& p) { p.descriptions[1].state_numbers_per_row ^= 1 << bit; });
    }
    differs([](Plan& p) { p.descriptions[0].data_type = at::kHalf; });
    differs([](Plan& p) { p.descriptions[0].rule = "adam"; });
    differs([](Plan& p) { p.tables[0].shards.clear(), p.tables[0].kind = ShardingKind::row_wise; });
    Plan by_hand{.tables = {{.table = "t", .kind = ShardingKind::row_wise, .ranks = {1}}}}, other = by_hand;
    other.tables[0].ranks = {2};
    CHECK(by_hand.hash() != other.hash());
  }
}

TEST_SUITE("planner/place") {
  TEST_CASE("a plan by hand is cut by kind and ranks when it meets the tables") {
    const Plan by_hand{.tables = {{.table = "item_id", .kind = ShardingKind::table_wise, .ranks = {1}},
                                  {.table = "user_id", .kind = ShardingKind::row_wise}}};
    const auto plan = complete(by_hand, two_tables, 2);
    validate(plan, two_tables, 2);
    CHECK(plan.world_size == 2);
    CHECK(plan.tables[0] == TablePlan{"user.embedding_bags.user_id", row_wise_shards(10, 4, 2)});
    CHECK(plan.tables[1] == TablePlan{"item.embedding_bags.item_id", table_wise_shards(6, 2, 1)});
    CHECK((complete(plan, two_tables, 2).tables == plan.tables));
  }
  TEST_CASE("by hand, each kind is what a constraint to it gives; a kind without ranks goes where least lies beside what is said") {
    const std::vector tables{table("first", 50, 16), table("t", 10, 16)};
    for (std::size_t k = 0; k < sharding_kind_names.size(); ++k)
      for (const auto& ranks : {std::vector<int>{}, std::vector<int>{5}, std::vector<int>{5, 2}})
        for (const std::int64_t min_partition : {0, 8}) {
          const auto kind = static_cast<ShardingKind>(k);
          const bool any_ranks = kind == ShardingKind::row_wise || kind == ShardingKind::column_wise;
          if (!any_ranks && ranks.size() > (kind == ShardingKind::data_parallel ? 0U : 1U)) continue;
          if (!splits_columns(kind) && min_partition > 0) continue;
          const auto plan = complete({.tables = {{"first", table_wise_shards(50, 16, 0)},
                                                 {.table = "t", .kind = kind, .ranks = ranks, .min_partition = min_partition}}},
                                     tables, 8, 4);
          const auto placed = place(tables, 8, {{"first", {.ranks = {0}}}, {"t", {{kind}, ranks, min_partition}}}, 4);
          CHECK((plan.tables == placed.tables));
        }
  }
  TEST_CASE("fields of a table's plan that do not go together are refused with their values") {
    using enum ShardingKind;
    const auto refuse = [](TablePlan planned, const std::string& sentence) {
      planned.table = "user_id";
      const Plan plan{.tables = {{"item_id", table_wise_shards(6, 2, 0)}, planned}};
      CHECK_THROWS_WITH_AS(complete(plan, two_tables, 4, 2), concat("Plan: table 'user.embedding_bags.user_id' ", sentence).c_str(),
                           PlanError);
    };
    const auto rows = row_wise_shards(10, 4, 4), columns = column_wise_shards(10, 4, 2, {0, 1});
    const auto no_sums = "; where shards have all rows there are no sums to add up";
    refuse({}, "has kind none, 0 shards, ranks [], min_partition 0, hierarchical false; it needs a kind or shards");
    refuse({.table = "", .ranks = {1}},
           "has kind none, 0 shards, ranks [1], min_partition 0, hierarchical false; it needs a kind or shards");
    refuse({.table = "", .shards = rows, .kind = row_wise},
           "has kind row_wise, 4 shards, ranks [], min_partition 0, hierarchical false; it may have a kind or shards, not both");
    refuse({.table = "", .shards = rows, .ranks = {1, 2}},
           "has kind none, 4 shards, ranks [1, 2], min_partition 0, hierarchical false; ranks and min_partition go with a kind");
    refuse({.table = "", .shards = rows, .min_partition = 4},
           "has kind none, 4 shards, ranks [], min_partition 4, hierarchical false; ranks and min_partition go with a kind");
    refuse({.table = "", .shards = columns, .hierarchical = true},
           concat("has kind none, 2 shards, ranks [], min_partition 0, hierarchical true", no_sums));
    refuse({.table = "", .shards = data_parallel_shards(10, 4, 4), .hierarchical = true},
           concat("has kind none, 4 shards, ranks [], min_partition 0, hierarchical true", no_sums));
    refuse({.table = "", .kind = data_parallel, .ranks = {0}},
           "has kind data_parallel, 0 shards, ranks [0], min_partition 0, hierarchical false; every rank has a copy");
    refuse({.table = "", .kind = table_wise, .ranks = {0, 1}},
           "has kind table_wise, 0 shards, ranks [0, 1], min_partition 0, hierarchical false; the table is whole, on one rank");
    for (const auto kind : {table_row_wise, table_column_wise, grid_shard})
      refuse({.table = "", .kind = kind, .ranks = {0, 3}},
             concat("has kind ", to_string(kind), ", 0 shards, ranks [0, 3], min_partition 0, hierarchical false; one rank names the node, "
                    "all of whose ranks are taken"));
    for (const auto kind : {data_parallel, table_wise, row_wise, table_row_wise})
      refuse({.table = "", .kind = kind, .min_partition = 4},
             concat("has kind ", to_string(kind), ", 0 shards, ranks [], min_partition 4, hierarchical false; this kind splits no ",
                    "columns"));
    for (const auto kind : {data_parallel, table_wise, column_wise, table_column_wise})
      refuse({.table = "", .kind = kind, .hierarchical = true},
             concat("has kind ", to_string(kind), ", 0 shards, ranks [], min_partition 0, hierarchical true", no_sums));
  }
  TEST_CASE("sums are said to be added up in each node where they are, and nowhere else") {
    using enum ShardingKind;
    const std::vector tables{table("t", 10, 8)};
    const auto is_summed = [&](ShardingKind kind, int ranks, int local) {
      const auto plan = place(tables, ranks, {{"t", {.kinds = {kind}, .min_partition = 4, .hierarchical = true}}}, local);
      CHECK((plan.report().find("summed in each node first") != std::string::npos) == plan.tables[0].hierarchical);
      return plan.tables[0].hierarchical;
    };
    for (std::size_t k = 0; k < sharding_kind_names.size(); ++k) {
      const auto kind = static_cast<ShardingKind>(k);
      CHECK(is_summed(kind, 4, 2) == splits_rows(kind));
      CHECK(!is_summed(kind, 4, 4));
      CHECK(!is_summed(kind, 4, 1));
      CHECK(!is_summed(kind, 1, 1));
    }
    const Plan by_hand{.tables = {{.table = "t", .kind = row_wise, .hierarchical = true}}};
    CHECK(complete(by_hand, tables, 4, 2).tables[0].hierarchical);
    CHECK(!complete(by_hand, tables, 4).tables[0].hierarchical);
    const Plan two_nodes{.tables = {{.table = "t", .shards = row_wise_shards({0, 10, 0, 8}, {0, 2}), .hierarchical = true}}};
    CHECK(!complete(two_nodes, tables, 4, 2).tables[0].hierarchical);
    CHECK(complete(two_nodes, tables, 6, 3).tables[0].hierarchical);
  }
  TEST_CASE("nodes of unlike size bear every plan but those that are made of nodes") {
    using enum ShardingKind;
    const std::vector tables{table("t", 10, 8)};
    for (std::size_t k = 0; k < sharding_kind_names.size(); ++k) {
      const auto kind = static_cast<ShardingKind>(k);
      const Plan by_hand{.tables = {{.table = "t", .kind = kind}}};
      const Constraints constraints{{"t", {.kinds = {kind}}}};
      if (is_on_nodes(kind)) {
        const auto sentence = concat("Plan: table 'embedding_bags.t' is ", to_string(kind),
                                     ", which is for nodes of as many ranks each; those of this topology differ");
        CHECK_THROWS_WITH_AS(complete(by_hand, tables, 6, detail::nodes_differ), sentence.c_str(), PlanError);
        CHECK_THROWS_WITH_AS(place(tables, 6, constraints, detail::nodes_differ), sentence.c_str(), PlanError);
      } else {
        CHECK((complete(by_hand, tables, 6, detail::nodes_differ).tables == complete(by_hand, tables, 6).tables));
        CHECK((place(tables, 6, constraints, detail::nodes_differ).tables == place(tables, 6, constraints).tables));
      }
    }
    CHECK_THROWS_WITH_AS(place(tables, 6, {{"t", {.kinds = {row_wise}, .hierarchical = true}}}, detail::nodes_differ),
                         "Plan: table 'embedding_bags.t' is hierarchical, which is for nodes of as many ranks each; those of this topology "
                         "differ",
                         PlanError);
  }
  TEST_CASE("a plan that says what its tables are is refused for tables of other rows, columns or dtypes") {
    const auto plan = place(two_tables, 2);
    const auto refuse = [&](auto change, const std::string& is) {
      auto tables = two_tables;
      change(tables[0]);
      CHECK_THROWS_WITH_AS(complete(plan, tables, 2),
                           concat("Plan: it is for a table 'user.embedding_bags.user_id' of [10, 4] Float, and the model's is ", is)
                               .c_str(),
                           PlanError);
    };
    refuse([](TableDescription& t) { t.num_embeddings = 12; }, "[12, 4] Float");
    refuse([](TableDescription& t) { t.embedding_dim = 3; }, "[10, 3] Float");
    refuse([](TableDescription& t) { t.data_type = at::kHalf; }, "[10, 4] Half");
    auto tables = two_tables;
    tables[0].rule = "adam";
    CHECK_NOTHROW(complete(plan, tables, 2));
  }
  TEST_CASE("thousands of shards are checked in the time of a few: rows behind rows are behind all before them") {
    const std::vector tables{table("t", 2'000'000, 4)};
    auto shards = row_wise_shards(2'000'000, 4, 200'000);
    CHECK_NOTHROW(validate({.tables = {{"t", shards}}}, tables, 200'000));
    shards.back().box = shards[shards.size() - 2].box;
    CHECK_THROWS_WITH_AS(validate({.tables = {{"t", shards}}}, tables, 200'000),
                         "Plan: table 'embedding_bags.t' has shards 199998 and 199999 that overlap", PlanError);
  }
  TEST_CASE("a plan for other tables or ranks is refused before anything is cut") {
    const auto refuse = [](const Plan& plan, const std::string& sentence) {
      CHECK_THROWS_WITH_AS(complete(plan, two_tables, 2), sentence.c_str(), PlanError);
    };
    const TablePlan item{"item_id", table_wise_shards(6, 2, 0)};
    refuse({.tables = {item}}, "Plan: there is none for table 'user.embedding_bags.user_id'");
    refuse({.tables = {item, item}}, "Plan: table 'item.embedding_bags.item_id' is planned 2 times");
    refuse({.tables = {item, {.table = "u", .kind = ShardingKind::row_wise}}}, "Plan: table 'u' is not in the model");
    refuse({.tables = {item, {.table = "user_id", .kind = ShardingKind::row_wise, .ranks = {0, 2}}}},
           "Plan: table 'user.embedding_bags.user_id' has a shard on rank 2 of 2");
    refuse({.tables = {item, {"user_id", {{{0, 1, 0, 1}, -1}}}}}, "Plan: table 'user.embedding_bags.user_id' has a shard on rank -1 of 2");
    refuse({.tables = {item, {"user_id", {{{0, std::int64_t{1} << 62, 0, 1 << 30}, 0}}}}},
           concat("Plan: table 'user.embedding_bags.user_id' of [10, 4] has a shard of rows 0 to ", std::int64_t{1} << 62,
                  " and columns 0 to 1073741824"));
    refuse({.tables = {item, {.table = "user_id", .kind = ShardingKind::column_wise, .min_partition = -1}}},
           "Plan: table 'user.embedding_bags.user_id' asks for shards of -1 columns");
    const Plan on_node{.tables = {item, {.table = "user_id", .kind = ShardingKind::table_column_wise, .ranks = {5}}}};
    CHECK_THROWS_AS(complete(on_node, two_tables, 6, 4), PlanError);                         // nodes of 4 and 2
    auto plan = place(two_tables, 3);
    refuse(plan, "Plan: it is for 3 ranks and there are 2");
    plan.world_size = 0;
    CHECK_NOTHROW(complete(plan, two_tables, 2));
  }
  TEST_CASE("tables go whole by falling bytes to the rank that holds least; ties to the first") {
    const std::vector<TableDescription> tables{table("a", 10), table("b", 40), table("c", 30), table("d", 20), table("e", 10)};
    const auto plan = place(tables, 2);
    CHECK(ranks_of(plan, tables[1]) == std::vector<int>{0});  // 40
    CHECK(ranks_of(plan, tables[2]) == std::vector<int>{1});  // 30
    CHECK(ranks_of(plan, tables[3]) == std::vector<int>{1});  // 20 -> 40 : 50
    CHECK(ranks_of(plan, tables[0]) == std::vector<int>{0});  // 10 -> 50 : 50, then the tie
    CHECK(ranks_of(plan, tables[4]) == std::vector<int>{0});
    validate(plan, tables, 2);
  }
  TEST_CASE("A57 four equal tables alternate; one that costs as much as the others together stays alone") {
    std::vector<TableDescription> tables{table("table_0", 100), table("table_1", 100), table("table_2", 100), table("table_3", 100)};
    auto plan = place(tables, 2);
    for (std::size_t t = 0; t < 4; ++t) CHECK(ranks_of(plan, tables[t]) == std::vector<int>{static_cast<int>(t % 2)});
    tables[0] = table("table_0", 300);
    plan = place(tables, 2);
    for (std::size_t t = 0; t < 4; ++t) CHECK(ranks_of(plan, tables[t]) == std::vector<int>{t == 0 ? 0 : 1});
  }
  TEST_CASE("constraints come first and count as load") {
    const std::vector<TableDescription> tables{table("small", 10), table("large", 100), table("split", 40)};
    const auto plan = place(tables, 2, {{"large", {.ranks = {1}}}, {"embedding_bags.split", {.kinds = {ShardingKind::row_wise}}}});
    CHECK(ranks_of(plan, tables[1]) == std::vector<int>{1});
    CHECK(ranks_of(plan, tables[2]) == std::vector<int>{0, 1});
    CHECK(ranks_of(plan, tables[0]) == std::vector<int>{0});
  }
  TEST_CASE("constraints that name no table, several, or a rank that is not there are refused") {
    const std::vector<TableDescription> tables{table("id", 4, 1, "user"), table("id", 4, 1, "item")};
    CHECK_THROWS_WITH_AS(place(tables, 2, {{"ids", {}}}),
                         "constraints: no table 'ids' in the model; there are [user.embedding_bags.id, item.embedding_bags.id]",
                         PlanError);
    std::vector<TableDescription> many;
    for (int t = 0; t < 10; ++t) many.push_back(table(concat("t", t), 4));
    CHECK_THROWS_WITH_AS(place(many, 2, {{"x", {}}}),
                         "constraints: no table 'x' in the model; there are [embedding_bags.t0, embedding_bags.t1, embedding_bags.t2, "
                         "embedding_bags.t3, embedding_bags.t4, embedding_bags.t5, embedding_bags.t6, embedding_bags.t7] and 2 more",
                         PlanError);
    CHECK_THROWS_WITH_AS(place(tables, 2, {{"id", {}}}), "constraints: 'id' names 2 tables of the model; it must name one", PlanError);
    CHECK_THROWS_WITH_AS(place(tables, 2, {{"user.embedding_bags.id", {.ranks = {2}}}}),
                         "constraints: 'user.embedding_bags.id' asks for rank 2 of 2", PlanError);
    CHECK_THROWS_AS(place(tables, 2, {{"user.embedding_bags.id", {.ranks = {-1}}}}), PlanError);
  }
  TEST_CASE("no tables are an empty plan, and more ranks than rows leave some ranks empty") {
    CHECK(place({}, 3).tables.empty());
    CHECK_NOTHROW(validate(place({}, 3), {}, 3));
    const std::vector<TableDescription> tables{table("t", 2)};
    const auto plan = place(tables, 4, {{"t", {.kinds = {ShardingKind::row_wise}}}});
    CHECK(ranks_of(plan, tables[0]) == std::vector<int>{0, 1});
    CHECK_NOTHROW(validate(plan, tables, 4));
  }
  TEST_CASE("the default plan of random tables is right, and no rank is further from the least loaded than the largest table") {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      cases::Draw draw(seed);
      std::vector<TableDescription> tables;
      Constraints constraints;
      std::int64_t largest = 0;
      for (std::int64_t t = 0, n = draw.integer(1, 12); t < n; ++t) {
        tables.push_back(table(concat("t", t), draw.integer(1, 1000), draw.integer(1, 64)));
        largest = std::max(largest, tables.back().bytes());
        if (draw.chance(.2)) constraints[tables.back().table] = {.kinds = {ShardingKind::row_wise}};
      }
      const int ranks = static_cast<int>(draw.integer(1, 6));
      const auto plan = place(tables, ranks, constraints);
      validate(plan, tables, ranks);
      if (!constraints.empty()) continue;
      Rows load(static_cast<std::size_t>(ranks));
      for (const auto& one : tables) load[static_cast<std::size_t>(plan.of(one).shards[0].rank)] += one.bytes();
      CHECK(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()) <= largest);
    }
  }
  TEST_CASE("B10 tables of 10^9 rows and 10^14 bytes are planned without memory, and add up") {
    const std::vector<TableDescription> tables{table("large", 2'000'000'000, 4096), table("larger", 40'000'000'000, 1024)};
    const auto plan = place(tables, 8, {{"large", {.kinds = {ShardingKind::row_wise}}}});
    validate(plan, tables, 8);
    CHECK(plan.of(tables[0]).shards.size() == 8);
    CHECK(plan.report().find("bytes by rank [167936000000000, 4096000000000, 4096000000000, 4096000000000, 4096000000000, 4096000000000, "
                             "4096000000000, 4096000000000]\n") != std::string::npos);
  }
}

}  // namespace rookery
