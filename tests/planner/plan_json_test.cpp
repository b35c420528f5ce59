// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/plan_json.hpp>

#include <rookery/core/replace_file.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/threads.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

/// A plan of random tables by random kinds; some of its tables by hand, and some plans without what their tables are.
Plan random_plan(cases::Draw& draw) {
  const std::vector<at::ScalarType> dtypes{at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};
  const std::vector<std::string> strange{"", " \"quoted\"", "\\", "\n\t\x01", "\xc3\xa4", "['x']", ".weight", "/~1"};
  std::vector<TableDescription> tables;
  Constraints constraints;
  const auto nodes = static_cast<int>(draw.integer(1, 3)), local = static_cast<int>(draw.integer(1, 4));
  for (std::int64_t t = 0, n = draw.integer(0, 8); t < n; ++t) {
    const auto name = concat("t", t, draw.one_of(strange));
    tables.push_back({.name = "path." + name, .table = name, .num_embeddings = draw.integer(1, 1000), .embedding_dim = draw.integer(1, 40),
                      .data_type = draw.one_of(dtypes), .rule = draw.chance(.5) ? "sgd" : "adam"});
    tables.back().state_numbers_per_row = draw.integer(0, 80);
    if (draw.chance(.7)) constraints[tables.back().name].kinds = {static_cast<ShardingKind>(draw.integer(0, 6))};
  }
  auto plan = place(tables, nodes * local, constraints, local);
  for (auto& table : plan.tables) table.hierarchical = draw.chance(.3);
  for (auto& table : plan.tables)
    if (draw.chance(.2)) {
      table.shards.clear();
      table.kind = static_cast<ShardingKind>(draw.integer(0, 6));
      for (auto more = draw.integer(0, 3); more > 0; --more) table.ranks.push_back(static_cast<int>(draw.integer(0, nodes * local - 1)));
      if (draw.chance(.5)) table.min_partition = draw.integer(0, 64);
    }
  if (draw.chance(.2)) plan.descriptions.clear();
  if (plan.descriptions.empty() && !plan.tables.empty() && draw.chance(.5)) plan.world_size = 0;
  return plan;
}

void same(const Plan& found, const Plan& wanted) {
  CHECK((found.tables == wanted.tables));
  CHECK(found.world_size == wanted.world_size);
  CHECK(found.hash() == wanted.hash());                          // covers what is said of tables
  CHECK(found.report() == wanted.report());
  CHECK(plan_to_json(found) == plan_to_json(wanted));
}

/// What a text is refused with.
std::string refusal(std::string_view text) {
  try {
    plan_from_json(text, "p.json");
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / concat("rookery_plan_json_", ::getpid());
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const char* name) const { return (path / name).string(); }
  std::ptrdiff_t files() const { return std::distance(std::filesystem::directory_iterator(path), {}); }
};

using Tables = EmbeddingBagCollection<Rules<Sgd>>;
Tables two() {
  return Tables{{.name = "user_id", .num_embeddings = 10, .embedding_dim = 4}, {.name = "item_id", .num_embeddings = 6, .embedding_dim = 2}};
}
constexpr std::string_view by_hand = R"({"tables": {"user_id": {"kind": "row_wise"},
                                                    "item_id": {"kind": "table_wise", "ranks": [1]}}})";

}  // namespace

TEST_SUITE("planner/plan_json") {
  TEST_CASE("random plans are read as they were written, from text and from files") {
    const Folder folder;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      cases::Draw draw(seed);
      const auto plan = random_plan(draw);
      same(plan_from_json(plan_to_json(plan)), plan);
      if (seed % 30 != 0) continue;
      save_plan(folder / "plan.json", plan);
      same(load_plan(folder / "plan.json"), plan);
      CHECK(folder.files() == 1);
    }
  }
  TEST_CASE("three lines by hand place a model") {
    Threads::run(2, [](Threads topology) {
      const auto model = ShardingPolicy(topology, {.plan = plan_from_json(by_hand)}).apply(two());
      CHECK((model.plan().tables[0] == TablePlan{"embedding_bags.user_id", row_wise_shards(10, 4, 2)}));
      CHECK((model.plan().tables[1] == TablePlan{"embedding_bags.item_id", table_wise_shards(6, 2, 1)}));
      const auto again = ShardingPolicy(topology, {.plan = plan_from_json(plan_to_json(model.plan()))}).apply(two());
      CHECK(again.plan().report() == model.plan().report());
    });
  }
  TEST_CASE("what is written is for people, too") {
    const Plan plan{.tables = {{"a", row_wise_shards(3, 2, 2)}, {.table = "b", .kind = ShardingKind::column_wise, .ranks = {1, 0}}}};
    CHECK(plan_to_json(plan) ==
          "{\n"
          "  \"version\": 1,\n"
          "  \"tables\": {\n"
          "    \"a\": {\"shards\": [\n"
          "        {\"rank\": 0, \"rows\": [0, 2], \"columns\": [0, 2]},\n"
          "        {\"rank\": 1, \"rows\": [2, 3], \"columns\": [0, 2]}]},\n"
          "    \"b\": {\"kind\": \"column_wise\", \"ranks\": [1, 0]}\n"
          "  }\n"
          "}\n");
    const std::vector<TableDescription> tables{{.name = "m.t", .table = "t", .num_embeddings = 3, .embedding_dim = 2, .rule = "sgd"}};
    CHECK(plan_to_json(place(tables, 1)) ==
          "{\n"
          "  \"version\": 1,\n"
          "  \"world_size\": 1,\n"
          "  \"tables\": {\n"
          "    \"m.t\": {\n"
          "      \"table\": \"t\", \"num_embeddings\": 3, \"embedding_dim\": 2, \"data_type\": \"float32\", \"rule\": \"sgd\", "
          "\"state_numbers_per_row\": 0,\n"
          "      \"shards\": [\n"
          "        {\"rank\": 0, \"rows\": [0, 3], \"columns\": [0, 2]}]}\n"
          "  }\n"
          "}\n");
  }
  TEST_CASE("mistakes are one sentence with the path to the value") {
    const std::string shards = R"({"shards": [{"rank": 0, "rows": [0, 3], "columns": [0, 2]}], )";
    const auto table = [](std::string_view entry) { return refusal(concat(R"({"tables": {"a": )", entry, "}}")); };
    CHECK(refusal("") == "p.json:1:1: this is not JSON");
    CHECK(refusal("{\n  \"tables\": x}") == "p.json:2:13: this is not JSON");
    CHECK(refusal("[]") == "p.json: must be an object, not a list");
    CHECK(refusal("{}") == "p.json: 'tables' is missing");
    CHECK(refusal(R"({"tables": {}})") == "p.json: tables: there are none");
    CHECK(refusal(R"({"tables": [1]})") == "p.json: tables: must be an object, not a list");
    CHECK(refusal(R"({"table": {}})") == "p.json: unknown key 'table'; there are [version, world_size, tables]");
    CHECK(refusal(R"({"version": 2, "tables": {}})") == "p.json: version: is 2; it must be a whole number from 1 to 1");
    CHECK(refusal(R"({"world_size": 0, "tables": {}})") == "p.json: world_size: is 0; it must be a whole number from 1 to 1048576");
    CHECK(refusal(R"({"world_size": 1e999, "tables": {}})") == "p.json: it has a number that is too large");
    CHECK(refusal(R"({"tables": {"a": {"kind": "row_wise"}, "a": {"kind": "table_wise"}}})") ==
          "p.json: key 'a' is given twice in one object");
    CHECK(table("null") == "p.json: tables['a']: must be an object, not null");
    const auto nowhere = "p.json: tables['a']: does not say where the table goes; give it a 'kind', one of [data_parallel, table_wise, "
                         "column_wise, row_wise, table_row_wise, table_column_wise, grid_shard], or a list of 'shards'";
    CHECK(table("{}") == nowhere);
    CHECK(table(R"({"ranks": [1]})") == nowhere);
    CHECK(table(R"({"shards": []})") == "p.json: tables['a'].shards: there are none; a table has one at least");
    CHECK(table(R"({"kind": "row_wise", "rank": [1]})") ==
          "p.json: tables['a']: unknown key 'rank'; there are [kind, ranks, min_partition, shards, hierarchical, table, "
          "num_embeddings, embedding_dim, data_type, rule, state_numbers_per_row]");
    CHECK(table(R"({"kind": 3})") == "p.json: tables['a'].kind: must be a text, not a number");
    CHECK(table(R"({"kind": "rowwise"})") ==
          "p.json: tables['a'].kind: is 'rowwise'; kinds are [data_parallel, table_wise, column_wise, row_wise, table_row_wise, "
          "table_column_wise, grid_shard]");
    CHECK(table(R"({"kind": "row_wise", "ranks": 1})") == "p.json: tables['a'].ranks: must be a list, not a number");
    CHECK(table(R"({"kind": "row_wise", "ranks": [0, "1"]})") == "p.json: tables['a'].ranks[1]: must be a whole number, not a text");
    CHECK(table(R"({"kind": "row_wise", "ranks": [-1]})") ==
          "p.json: tables['a'].ranks[0]: is -1; it must be a whole number from 0 to 1048575");
    CHECK(table(R"({"kind": "row_wise", "ranks": [18446744073709551615]})") ==
          "p.json: tables['a'].ranks[0]: is 18446744073709551615; it must be a whole number from 0 to 1048575");
    CHECK(table(R"({"kind": "row_wise", "min_partition": 1.5})") ==
          "p.json: tables['a'].min_partition: is 1.5; it must be a whole number from 0 to 1073741824");
    CHECK(table(R"({"kind": "row_wise", "shards": []})") == "p.json: tables['a']: has both 'kind' and 'shards'");
    CHECK(table(shards + R"("ranks": [1]})") == "p.json: tables['a']: has 'ranks', which goes with 'kind', not with 'shards'");
    CHECK(table(R"({"kind": "row_wise", "hierarchical": 1})") == "p.json: tables['a'].hierarchical: must be true or false, not a number");
    CHECK(table(R"({"shards": {}})") == "p.json: tables['a'].shards: must be a list, not an object");
    CHECK(table(R"({"shards": [true]})") == "p.json: tables['a'].shards[0]: must be an object, not true or false");
    CHECK(table(R"({"shards": [{"rank": 0, "rows": [0, 1]}]})") == "p.json: tables['a'].shards[0]: 'columns' is missing");
    CHECK(table(R"({"shards": [{"rank": 0, "rows": [0], "columns": [0, 1]}]})") ==
          "p.json: tables['a'].shards[0].rows: must be two numbers, the first and the one behind the last; there are 1");
    CHECK(table(R"({"shards": [{"rank": 0, "rows": [2, 1], "columns": [0, 1]}]})") ==
          "p.json: tables['a'].shards[0].rows[1]: is 1; it must be a whole number from 2 on");
    CHECK(table(shards + R"("rule": "sgd"})") == "p.json: tables['a']: has 'rule' and no 'num_embeddings'");
    CHECK(table(shards + R"("num_embeddings": 3})") == "p.json: tables['a']: 'table' is missing");
    const auto described = shards + R"("table": "a", "num_embeddings": 3, "embedding_dim": 2, "rule": "sgd", "state_numbers_per_row": 0,
                               "data_type": "float8"})";
    CHECK(table(described) == "p.json: tables['a'].data_type: is 'float8'; use float32, float64, float16 or bfloat16");
  }
  TEST_CASE("a saved plan whose shards do not cover its tables is refused when it is read, and one for other tables when a model is placed") {
    const std::vector<TableDescription> tables{{.name = "t", .table = "t", .num_embeddings = 3, .embedding_dim = 2, .rule = "sgd"}};
    auto text = plan_to_json(place(tables, 1));
    CHECK_NOTHROW(plan_from_json(text));
    text.replace(text.find("[0, 3]"), 6, "[0, 2]");
    CHECK_THROWS_WITH_AS(plan_from_json(text), "Plan: table 't' has 6 weights and its shards cover 4", PlanError);
    const auto apply = [](std::string_view json) {
      Threads::run(2, [&](Threads topology) { ShardingPolicy(topology, {.plan = plan_from_json(json)}).apply(two()); });
    };
    CHECK_THROWS_WITH_AS(apply(R"({"tables": {"user_id": {"kind": "row_wise"}}})"),
                         doctest::Contains("Plan: there is none for table 'embedding_bags.item_id'"), PlanError);
    CHECK_THROWS_WITH_AS(apply(R"({"world_size": 2, "tables": {}})"), doctest::Contains("Plan: there is none for table 'embedding_bags.user_id'"),
                         PlanError);
    CHECK_THROWS_WITH_AS(apply(R"({"world_size": 4, "tables": {"user_id": {"kind": "row_wise"}, "item_id": {"kind": "row_wise"}}})"),
                         doctest::Contains("Plan: it is for 4 ranks and there are 2"), PlanError);
    CHECK_THROWS_WITH_AS(apply(R"({"tables": {"user_id": {"kind": "row_wise"}, "item_id": {"kind": "table_wise", "ranks": [2]}}})"),
                         doctest::Contains("Plan: table 'embedding_bags.item_id' has a shard on rank 2 of 2"), PlanError);
  }
  TEST_CASE("files that cannot be read or written are refused, and an old file stays as it was") {
    const Folder folder;
    const Plan plan{.tables = {{"a", table_wise_shards(3, 2, 0)}}};
    CHECK_THROWS_WITH_AS(load_plan(folder / "none.json"), concat("load_plan: cannot read '", folder / "none.json", "'").c_str(), DataError);
    CHECK_THROWS_AS(load_plan(folder.path.string()), DataError);
    CHECK_THROWS_WITH_AS(save_plan(folder / "none/plan.json", plan),
                         concat("save_plan: cannot write '", folder / "none/plan.json", "': No such file or directory").c_str(), DataError);
    std::filesystem::create_directory(folder / "taken");
    CHECK_THROWS_AS(save_plan(folder / "taken", plan), DataError);
    CHECK(folder.files() == 1);                                  // nothing is left beside it
    save_plan(folder / "plan.json", plan);
    auto bad = plan;
    bad.tables[0].table = "\xff";
    CHECK_THROWS_WITH_AS(save_plan(folder / "plan.json", bad), "plan_to_json: the name of a table is not UTF-8", DataError);
    same(load_plan(folder / "plan.json"), plan);
    CHECK_THROWS_AS(replace_file("/dev/full/x", "text", "test"), DataError);
  }
}

}  // namespace rookery
