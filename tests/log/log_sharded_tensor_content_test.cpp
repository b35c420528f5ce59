// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/log_sharded_tensor_content.hpp>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

/// What is printed about a parameter of a model.
template <class Declared>
std::string content(int ranks, const ShardingOptions& sharding, const std::function<Declared()>& declare, const std::string& name,
                    TensorContentOptions options = {}) {
  cases::Scratch out;
  options.out = out.file();
  if (ranks == 1) {
    auto placed = ShardingPolicy<Local>(sharding).apply(declare());
    log_sharded_tensor_content(placed, name, options);
  } else {
    Threads::run(ranks, [&](Threads topology) {
      auto placed = ShardingPolicy<Threads>(topology, sharding).apply(declare());
      log_sharded_tensor_content(placed, name, options);
    });
  }
  return out.text();
}

cases::Tables f64() {
  cases::Tables tables{{.name = "f", .num_embeddings = 6, .embedding_dim = 4, .data_type = at::kDouble}};
  tables.assign("f", cases::fill(6, 4, at::kDouble));
  return tables;
}
const std::string f = "embedding_bags.f.weight";
const std::string statistics = "  mean 0.00416667  std 0.323673  max_abs 0.5  norm 1.55242  mean_row_norm 0.632922\n";

/// The text behind the line of statistics.
std::string rows_of(const std::string& text) { return text.substr(text.find('\n', text.find("  mean ")) + 1); }

}  // namespace

TEST_SUITE("log/log_sharded_tensor_content") {
  TEST_CASE("shards, statistics, and rows on request") {
    const Plan grid{.tables = {{"f", {{{0, 4, 0, 4}, 1}, {{4, 6, 0, 1}, 0}, {{4, 6, 1, 4}, 2}}}}};
    CHECK(content<cases::Tables>(3, {.plan = grid}, f64, f, {.row_begin = 3, .row_end = 6}) ==
          "embedding_bags.f.weight: [6, 4] Double, shards: 3\n"
          "  shard  rank  rows  columns\n"
          "  0         1   0-3      0-3\n"
          "  1         0   4-5      0-0\n"
          "  2         2   4-5      1-3\n" +
              statistics +
              "  row 3: 0.5 -0.3 0 0.3\n"
              "  row 4: 0.1 0.4 -0.4 -0.1\n"
              "  row 5: -0.3 0 0.3 -0.5\n");
  }
  TEST_CASE("one process prints the same numbers, and no rows unless asked") {
    CHECK(content<cases::Tables>(1, {}, f64, f) ==
          "embedding_bags.f.weight: [6, 4] Double, shards: 1\n  shard  rank  rows  columns\n  0         0   0-5      0-3\n" + statistics);
  }
  TEST_CASE("law: rows are local's under every plan, in chunks, whatever the dtype") {
    const std::function<ModelAndLoss<cases::Model, cases::Loss, cases::Batch>()> model = cases::model;
    for (const std::string name :
         {"single.embedding_bags.columns.weight", "wide.embedding_bags.grid.weight", "wide.embedding_bags.uneven.weight",
          "single.embedding_bags.rows.weight", "layers.1.weight", "scale", "none"}) {
      CAPTURE(name);
      const std::int64_t rows = name.find("columns") != name.npos ? 100 : name.find("uneven") != name.npos ? 13 : name == "none" ? 0 : 1;
      const auto local = content(1, {.seed = 2}, model, name, {.row_end = rows});
      for (const int ranks : {2, 4})
        CHECK(rows_of(content(ranks, {.plan = cases::plan(ranks), .seed = 2}, model, name, {.row_end = rows})) == rows_of(local));
      CHECK(std::count(local.begin(), local.end(), ':') == 1 + rows + (name.find("bags") != name.npos ? 1 : 0));
    }
  }
  TEST_CASE("only what is asked for travels, in chunks") {
    Threads::run(2, [](Threads threads) {
      cases::Scratch out;
      cases::Counting topology(std::move(threads));
      cases::Tables tables{{.name = "t", .num_embeddings = 10'000, .embedding_dim = 16, .initial = Zeros{}}};
      auto placed =
          ShardingPolicy<cases::Counting>(topology, {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}}}).apply(std::move(tables));
      topology.taken();
      log_sharded_tensor_content(placed, "embedding_bags.t.weight", {.out = out.file()});
      CHECK(topology.taken() == 1);
      log_sharded_tensor_content(placed, "embedding_bags.t.weight", {.row_begin = 1000, .row_end = 9000, .out = out.file()});
      CHECK(topology.taken() == 1 + (8000 + 2046) / 2047);                         // rows of 16 in chunks of 32767 numbers
      cases::Tables split{{.name = "t", .num_embeddings = 10'000, .embedding_dim = 16, .initial = Zeros{}}};
      const Plan halves{.tables = {{"t", {{{0, 10'000, 0, 8}, 0}, {{0, 10'000, 8, 16}, 1}}}}};
      auto columns = ShardingPolicy<cases::Counting>(topology, {.plan = halves}).apply(std::move(split));
      topology.taken();
      log_sharded_tensor_content(columns, "embedding_bags.t.weight", {.out = out.file(), .rows_per_exchange = 2500});
      CHECK(topology.taken() == 4);
    });
  }
  TEST_CASE("mistakes are one sentence") {
    CHECK_THROWS_WITH_AS(content<cases::Tables>(1, {}, f64, "g"),
                         "log_sharded_tensor_content: no parameter 'g'; there are [embedding_bags.f.weight]", IndexError);
    CHECK_THROWS_WITH_AS(content<cases::Tables>(1, {}, f64, f, {.row_begin = 2, .row_end = 7}),
                         "log_sharded_tensor_content: rows 2 to 7 of 'embedding_bags.f.weight', which has 6", IndexError);
  }
}

}  // namespace rookery
