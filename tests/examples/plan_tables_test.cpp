// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "../../examples/applications/plan_tables.hpp"

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace {

namespace rk = rookery;

/// Files of one test, removed with it.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / rk::concat("rookery_plan_tables_", ::getpid());
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const char* name) const { return (path / name).string(); }
  std::string write(const char* name, std::string_view text) const {
    std::ofstream(path / name) << text;
    return *this / name;
  }
};
bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

/// The line of a report that begins with these letters.
std::string line_of(const std::string& text, std::string_view begin) {
  const auto at = text.find(rk::concat("\n", begin));
  return at == text.npos ? "" : text.substr(at + 1, text.find('\n', at + 1) - at - 1);
}

constexpr std::string_view in_toml = R"(
[[tables]]
name = "user_id"
num_embeddings = 100_000
embedding_dim = 64
optimizer = "adam"
[[tables]]
name = "item_id"
num_embeddings = 10_000
embedding_dim = 32
data_type = "float16"
kinds = ["row_wise", "table_wise"]
pooling_factors = [1, 2.5]
features = 2
)";
constexpr std::string_view in_json = R"({"tables": [
  {"name": "user_id", "num_embeddings": 100000, "embedding_dim": 64, "optimizer": "adam"},
  {"name": "item_id", "num_embeddings": 10000, "embedding_dim": 32, "data_type": "float16", "kinds": ["row_wise", "table_wise"],
   "pooling_factors": [1, 2.5], "features": 2}]})";

/// What tables are refused with.
std::string refusal(std::string_view text, const std::string& file = "t.toml") {
  try {
    examples::parse_tables(text, file);
  } catch (const rk::ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_SUITE("examples/plan_tables") {
  TEST_CASE("the tables of the example fit on 8 ranks of 80 GB and not on one, which is told what would be enough") {
    const std::string tables = ROOKERY_SOURCE_DIR "/examples/applications/tables.toml";
    const auto fits = examples::plan_tables({tables, "--ranks", "8", "--memory", "80GB", "--device", "cuda"});
    CHECK(fits.status == 0);
    CHECK(fits.error == "");
    CHECK(contains(fits.out, "8 ranks on 1 node, 74.5 GiB each"));
    CHECK(contains(fits.out, "and 11 more that cost less"));
    CHECK(line_of(fits.out, "it fits").starts_with("it fits: the fullest rank needs "));
    const auto small = examples::plan_tables({tables, "--ranks", "1", "--memory", "80GB", "--device", "cuda"});
    CHECK(small.status == 1);
    CHECK(small.error.starts_with("plan_tables: make_plan: 27 tables of 170 GiB do not fit on 1 rank of 74.5 GiB less 11.2 GiB reserved"));
    CHECK(contains(small.error, " a rank would be enough; "));
    CHECK(contains(small.error, " ranks would be enough\n"));
  }
  TEST_CASE("TOML and JSON say the same, and a plan that is written places a model") {
    const Folder folder;
    const auto toml_file = folder.write("a.toml", in_toml), json_file = folder.write("a.json", in_json);
    const auto first = examples::plan_tables({toml_file, "--ranks=2", "--device=cpu", "--output", folder / "plan.json"});
    const auto second = examples::plan_tables({json_file, "--ranks=2", "--device=cpu", "--diff", folder / "plan.json"});
    CHECK(first.status == 0);
    CHECK(second.status == 0);
    CHECK(line_of(first.out, "hash ") == line_of(second.out, "hash "));
    CHECK(contains(second.out, rk::concat("\nthe same plan as ", folder / "plan.json", "\n")));
    const auto plan = rk::load_plan(folder / "plan.json");
    CHECK(line_of(first.out, "hash ") == rk::concat("hash ", rk::detail::hexadecimal(plan.hash())));
    rk::Threads::run(2, [&](rk::Threads topology) {
      using Tables = rk::EmbeddingBagCollection<rk::Rules<rk::Adam, rk::RowwiseAdagrad>>;
      const auto model = rk::ShardingPolicy(topology, {.plan = plan}).apply(
          Tables{{.name = "user_id", .num_embeddings = 100'000, .embedding_dim = 64},
                 {.name = "item_id", .num_embeddings = 10'000, .embedding_dim = 32, .data_type = at::kHalf}});
      CHECK((model.plan().tables[0].shards == plan.tables[0].shards));
    });
  }
  TEST_CASE("a plan by hand is judged as it is, and others are told apart from it") {
    const Folder folder;
    const auto tables = folder.write("a.toml", in_toml);
    const auto by_hand = folder.write("hand.json", R"({"tables": {"user_id": {"kind": "table_wise", "ranks": [1]},
                                                                  "item_id": {"kind": "row_wise"}}})");
    const auto judged = examples::plan_tables({tables, "--ranks=2", "--plan", by_hand, "--output", folder / "out.json"});
    CHECK(judged.status == 0);
    CHECK(rk::load_plan(folder / "out.json").tables[0].shards[0].rank == 1);
    const auto full = examples::plan_tables({tables, "--ranks=2", "--plan", by_hand, "--memory=50MB"});
    CHECK(full.status == 1);
    CHECK(contains(full.out, "it does not fit: the fullest rank needs 7"));
    const auto other = folder.write("other.json", R"({"tables": {"user_id": {"kind": "table_wise", "ranks": [0]},
                                                                 "item_id": {"kind": "row_wise"}}})");
    const auto turned = examples::plan_tables({tables, "--ranks=2", "--plan", other, "--diff", by_hand});
    CHECK(contains(turned.out, rk::concat("\nfrom ", by_hand, ":\ntable user_id: ranks 1 -> 0; 73.2 MiB move\n")));
    const auto wrong = examples::plan_tables({tables, "--ranks=1", "--plan", by_hand});
    CHECK(wrong.status == 2);
    CHECK(wrong.error == rk::concat("plan_tables: ", by_hand, ": Plan: table 'user_id' has a shard on rank 1 of 1\n"));
    const auto less = examples::plan_tables({tables, "--ranks=4", "--plan", folder / "out.json"});
    CHECK(less.status == 2);
    CHECK(less.error == rk::concat("plan_tables: ", folder / "out.json", ": Plan: it is for 2 ranks and there are 4\n"));
  }
  TEST_CASE("what is measured takes the place of constants, what is given that of both") {
    const Folder folder;
    const auto tables = folder.write("a.toml", in_toml);
    const auto line = [&](std::vector<std::string> arguments) {
      arguments.insert(arguments.begin(), {tables, "--ranks=2", "--device=cpu"});
      const auto said = examples::plan_tables(arguments);
      CHECK(said.error == "");
      return said.out.substr(0, said.out.find('\n'));
    };
    const auto constants = line({}), measured = line({"--calibrate"});
    CHECK(constants == "2 ranks on 1 node, 128 GiB each; tables are read at 51 GiB/s, exchange is at 600 GiB/s in a node and 12.5 GiB/s "
                       "between nodes");
    CHECK(measured != constants);
    CHECK(line({"--calibrate", "--memory=1GiB", "--host-bandwidth=10GiB", "--intra-node-bandwidth=1MiB"}) ==
          "2 ranks on 1 node, 1 GiB each; tables are read at 10 GiB/s, exchange is at 1 MiB/s in a node and 12.5 GiB/s between nodes");
  }
  TEST_CASE("mistakes on the command line and in files are one sentence and the status 2") {
    const Folder folder;
    const auto tables = folder.write("a.toml", in_toml);
    const auto misspelt = examples::plan_tables({tables, "--rank", "2"});
    CHECK(misspelt.status == 2);
    CHECK(misspelt.error == "plan_tables: --rank is no option; did you mean '--ranks'?\n");
    const auto much = examples::plan_tables({tables, "--host-bandwidth", "-3"});
    CHECK(much.status == 2);
    CHECK(much.error == "plan_tables: --host-bandwidth: it must be a number of bytes, such as 80GB or 512GiB, not '-3'\n");
    CHECK(examples::plan_tables({tables, "--lines", "-1"}).status == 2);
    CHECK(examples::plan_tables({"--help"}).status == 0);
    const auto absent = examples::plan_tables({folder / "none.toml"});
    CHECK(absent.status == 2);
    CHECK(contains(absent.error, "none.toml"));
    const auto nodes = examples::plan_tables({tables, "--ranks=6", "--local-ranks=4"});
    CHECK(nodes.status == 2);
    CHECK(contains(nodes.error, "6 ranks on nodes of 4"));
    const auto plan = examples::plan_tables({tables, "--plan", folder.write("p.json", R"({"tables": {"user_id": 1}})")});
    CHECK(plan.status == 2);
    CHECK(contains(plan.error, "p.json: tables['user_id']: must be an object, not a number\n"));

    const auto entry = [](std::string_view keys) {
      return refusal(rk::concat("[[tables]]\nname = \"a\"\nnum_embeddings = 3\nembedding_dim = 2\n", keys));
    };
    CHECK(entry("") == "");
    CHECK(refusal("") == "t.toml: no tables; write [[tables]] above the keys of each");
    CHECK(refusal("tables = 3") == "t.toml:1: 'tables' must be a list, not an integer; write [[tables]] above it");
    CHECK(refusal("[[tables]]\nname = \"a\"").starts_with("t.toml:1: EmbeddingBagCollection: table 'a' is [0, 0]"));
    CHECK(refusal("[[tables]]\nnum_embeddings = 3\nembedding_dim = 2") == "t.toml:1: EmbeddingBagCollection: table number 0 has no name");
    CHECK(entry("rows = 3").starts_with("t.toml:5: tables: unknown key 'rows'"));
    CHECK(entry("optimizer = \"adamw\"").starts_with("t.toml:5: tables: 'optimizer' cannot be 'adamw'"));
    CHECK(entry("kinds = \"rowwise\"").starts_with("t.toml:1: no sharding kind 'rowwise'; there are [data_parallel, "));
    CHECK(entry("ranks = [-1]") == "t.toml:1: table 'a' asks for rank -1");
    CHECK(entry("count = 0") == "t.toml:1: 'count' is 0; it must be from 1 to 1000000");
    CHECK(entry("features = 0") == "t.toml:1: 'features' is 0; it must be from 1 to 65535");
    CHECK(entry("[[tables]]\nname = \"a\"\nnum_embeddings = 3\nembedding_dim = 2") == "t.toml:5: table 'a' is there twice");
    CHECK(refusal("[1]", "t.json") == "t.json: must be an object with a list of \"tables\"");
    CHECK(refusal("{", "t.json") == "t.json: this is not JSON, from byte 2 on");
    CHECK(refusal(R"({"tables": [{"name": null}]})", "t.json") == "t.json: null means nothing here; leave the key out");
    CHECK(refusal(R"({"tables": [{"name": 1}]})", "t.json") == "t.json: tables: 'name' must be a text, not an integer");
    CHECK(refusal(R"({"tables": [{"name": "a", "embedding_dim": 1e999}]})", "t.json") == "t.json: it has a number that is too large");
    CHECK(examples::parse_tables("[[tables]]\nname = \"a\"\ncount = 3\nnum_embeddings = 3\nembedding_dim = 2", "t.toml").tables[2].name ==
          "a_2");
  }
}
