// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/log_ebc_norms.hpp>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

const std::string key = "embedding_bags.t.weight";

cases::Tables table(std::int64_t rows, std::int64_t columns) {
  cases::Tables tables{{.name = "t", .num_embeddings = rows, .embedding_dim = columns}};
  tables.assign("t", cases::fill(rows, columns));
  return tables;
}

/// Norms of F(rows, columns) under a plan, as rank 1 has them.
LogValues norms(int ranks, std::int64_t rows, std::int64_t columns, std::vector<Shard> shards, WeightLoggerOptions options = {}) {
  LogValues values;
  Threads::run(ranks, [&](Threads topology) {
    auto placed = ShardingPolicy<Threads>(topology, {.plan = {.tables = {{"t", shards}}}}).apply(table(rows, columns));
    auto mine = log_ebc_norms(placed, {key}, options);
    if (topology.rank() == 1) values = std::move(mine);
  });
  return values;
}

void check_values(const LogValues& values, const std::vector<std::pair<std::string, double>>& expected) {
  REQUIRE(values.size() == expected.size());
  std::size_t i = 0;
  for (const auto& [name, value] : values) {
    CHECK(name == key + expected[i].first);
    CHECK(value == doctest::Approx(expected[i].second).epsilon(1e-6));
    ++i;
  }
}

}  // namespace

TEST_SUITE("log/log_ebc_norms") {
  TEST_CASE("4.3 table norms, row-wise on two ranks as 4 + 2 rows") {
    check_values(norms(2, 6, 4, {{{0, 4, 0, 4}, 0}, {{4, 6, 0, 4}, 1}}),
                 {{"-norm-0", .6396736}, {"-norm-1", .6194195}, {"-norm", .6329223}});
  }
  TEST_CASE("4.3 table norms, one process: rank 0 and the whole") {
    auto placed = ShardingPolicy<Local>{}.apply(table(6, 4));
    check_values(log_ebc_norms(placed, {key}), {{"-norm-0", .6329223}, {"-norm", .6329223}});
  }
  TEST_CASE("4.3 table norms, column halves are norms of whole rows") {
    for (const std::int64_t rows_per_exchange : {1 << 20, 4})
      check_values(norms(2, 6, 4, {{{0, 6, 0, 2}, 0}, {{0, 6, 2, 4}, 1}}, {rows_per_exchange}),
                   {{"-norm-0", .6329223}, {"-norm-1", .6329223}, {"-norm", .6329223}});
  }
  TEST_CASE("4.3 table norms, five rows on four ranks: a rank without rows has no key") {
    const auto row = cases::fill(5, 4, at::kDouble).norm(2, 1);                    // [5]
    const auto mean = [&](std::int64_t begin, std::int64_t end) { return row.narrow(0, begin, end - begin).mean().item<double>(); };
    check_values(norms(4, 5, 4, row_wise_shards(5, 4, 4)),
                 {{"-norm-0", mean(0, 2)}, {"-norm-1", mean(2, 4)}, {"-norm-2", mean(4, 5)}, {"-norm", mean(0, 5)}});
  }
  TEST_CASE("4.3 table norms, a rank without the table has no key") {
    check_values(norms(3, 6, 4, table_wise_shards(6, 4, 1)), {{"-norm-1", .6329223}, {"-norm", .6329223}});
  }
  TEST_CASE("4.3 table norms, copies on every rank: rank 0 stands for them all") {
    check_values(norms(3, 6, 4, data_parallel_shards(6, 4, 3)), {{"-norm-0", .6329223}, {"-norm", .6329223}});
  }
  TEST_CASE("a grid: each rank counts the rows it holds in part, the whole counts each row once") {
    const auto row = cases::fill(6, 4, at::kDouble).norm(2, 1);                    // [6]
    const auto mean = [&](std::int64_t begin, std::int64_t end) { return row.narrow(0, begin, end - begin).mean().item<double>(); };
    check_values(norms(3, 6, 4, {{{0, 2, 0, 4}, 1}, {{2, 6, 0, 1}, 0}, {{2, 5, 1, 4}, 1}, {{5, 6, 1, 4}, 2}}),
                 {{"-norm-0", mean(2, 6)}, {"-norm-1", mean(0, 5)}, {"-norm-2", mean(5, 6)}, {"-norm", .6329223}});
  }
  TEST_CASE("one all-reduce for all keys") {
    Threads::run(2, [](Threads threads) {
      cases::Counting topology(std::move(threads));
      auto placed = ShardingPolicy<cases::Counting>(topology, {.plan = cases::plan(2)}).apply(cases::model());
      topology.taken();
      const auto values = log_ebc_norms(
          placed, {"wide.embedding_bags.grid.weight", "single.embedding_bags.columns.weight", "single.embedding_bags.rows.weight"});
      CHECK(topology.taken() == 1);
      CHECK(values.size() == 9);
      CHECK(log_ebc_norms(placed, {}).empty());
    });
  }
  TEST_CASE("a misspelt key is an error that names the tables") {
    auto placed = ShardingPolicy<Local>{}.apply(table(6, 4));
    CHECK_THROWS_WITH_AS(log_ebc_norms(placed, {key, "embedding_bags.u.weight"}),
                         "log_ebc_norms: no table 'embedding_bags.u.weight'; there are [embedding_bags.t.weight]", IndexError);
    auto model = ShardingPolicy<Local>{}.apply(cases::model());
    CHECK_THROWS_AS(log_ebc_norms(model, {"layers.0.weight"}), IndexError);        // no table
  }
}

}  // namespace rookery
