// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/table_view.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstdint>
#include <latch>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

using Bags = EmbeddingBagCollection<Rules<Adagrad>>;

Bags tables(at::ScalarType dtype) {
  Bags declared{{.name = "t", .num_embeddings = 6, .embedding_dim = 4, .data_type = dtype},
                {.name = "u", .num_embeddings = 2, .embedding_dim = 1}};
  declared.assign("t", at::arange(24, at::kDouble).view({6, 4}));
  return declared;
}
at::Tensor ids(const std::vector<std::int64_t>& values) { return at::tensor(values, at::kLong); }
at::Tensor expected_rows(const std::vector<std::int64_t>& values) {
  return at::arange(24, at::kFloat).view({6, 4}).index_select(0, ids(values));
}

}  // namespace

TEST_SUITE("sharding/table_view") {
  TEST_CASE("reads and writes rows by id on one process, repeated ids too") {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      auto model = ShardingPolicy<Local>{}.apply(tables(dtype));
      const auto table = model.table("t");
      CHECK(table.description().name == "embedding_bags.t");
      CHECK(model.table("embedding_bags.t.weight").description().name == "embedding_bags.t");
      CHECK(at::equal(table.rows(ids({5, 0, 5})), expected_rows({5, 0, 5})));
      CHECK(table.rows(ids({})).sizes() == at::IntArrayRef{0, 4});
      table.write(ids({2, 3, 2}), at::tensor({1., 1., 1., 1., 2., 2., 2., 2., 3., 3., 3., 3.}).view({3, 4}));
      CHECK(at::equal(table.rows(ids({2, 3, 4})), at::cat({at::full({1, 4}, 3.f), at::full({1, 4}, 2.f), expected_rows({4})})));
      CHECK(at::equal(table.weight().to(at::kFloat)[3], at::full({4}, 2.f)));
      CHECK(table.state("momentum1").sizes() == at::IntArrayRef{6, 4});
    }
  }

  TEST_CASE("every rank reads the ids that it asks for, under every plan, and sees what any rank wrote") {
    for (const auto& plan : {Plan{{{"t", row_wise_shards(6, 4, 3)}, {"u", table_wise_shards(2, 1, 0)}}},
                             Plan{{{"t", data_parallel_shards(6, 4, 3)}, {"u", table_wise_shards(2, 1, 0)}}},
                             Plan{{{"t", {{{0, 6, 0, 1}, 2}, {{0, 6, 1, 4}, 0}}}, {"u", table_wise_shards(2, 1, 1)}}}})
      Threads::run(3, [&](Threads topology) {
        auto model = ShardingPolicy(topology, {.plan = plan}).apply(tables(at::kFloat));
        const auto table = model.table("t");
        const std::vector<std::vector<std::int64_t>> asked{{0, 5, 2}, {}, {5, 1}};
        const auto& mine = asked[static_cast<std::size_t>(topology.rank())];
        CHECK(at::equal(table.rows(ids(mine)), expected_rows(mine)));
        const auto value = static_cast<float>(topology.rank());
        table.write(ids(topology.rank() == 1 ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{4, topology.rank()}),
                    at::full({topology.rank() == 1 ? 0 : 2, 4}, value));
        CHECK(at::equal(table.rows(ids({4, 0, 2, 1})),
                        at::cat({at::full({1, 4}, 2.f), at::full({1, 4}, 0.f), at::full({1, 4}, 2.f), expected_rows({1})})));
      });
  }

  TEST_CASE("tables, ids and values that are not there are refused by name") {
    auto model = ShardingPolicy<Local>{}.apply(tables(at::kFloat));
    CHECK_THROWS_WITH_AS(model.table("v"), "no table 'v' in the model; there are [embedding_bags.t, embedding_bags.u]", IndexError);
    CHECK_THROWS_WITH_AS(model.table("t").rows(ids({1, 6})), "table 'embedding_bags.t': id 6 at position 1; the table has 6 rows",
                         IndexError);
    CHECK_THROWS_WITH_AS(model.table("t").write(ids({1}), at::full({1, 3}, 0.f)),
                         "table 'embedding_bags.t': values of shape [1, 3] for 1 rows of 4", ShapeError);
    CHECK_THROWS_AS(model.table("t").rows(at::full({2}, 1.f)), ShapeError);
  }

  TEST_CASE("values that the table would hold as NaN or infinite are refused by table, row and value, before anything is written") {
    auto model = ShardingPolicy<Local>{}.apply(tables(at::kHalf));
    const auto table = model.table("t");
    auto values = at::full({2, 4}, 65504., at::kDouble);         // the largest float16
    table.write(ids({0, 1}), values);
    CHECK(at::equal(table.rows(ids({0})), at::full({1, 4}, 65504.f)));
    values[1][2] = 1e6;
    CHECK_THROWS_WITH_AS(table.write(ids({2, 5}), values),
                         "table 'embedding_bags.t': value 1e+06 at position 1, column 2, for id 5; Half rows take finite values within its "
                         "range; nothing was written",
                         NonFiniteError);
    values[0][0] = std::nan("");
    CHECK_THROWS_WITH_AS(table.write(ids({2, 5}), values), doctest::Contains("value nan at position 0, column 0, for id 2;"), NonFiniteError);
    CHECK(at::equal(table.rows(ids({2, 5})), expected_rows({2, 5})));
    auto wide = ShardingPolicy<Local>{}.apply(tables(at::kFloat));
    CHECK_THROWS_AS(wide.table("t").write(ids({0}), at::full({1, 4}, 1e39, at::kDouble)), NonFiniteError);
    wide.table("t").write(ids({0}), at::full({1, 4}, 1e6));
  }

  TEST_CASE("what one rank may not write no rank has written") {
    std::vector<at::Tensor> left(2);
    std::latch placed(2);                                    // a rank that is still being placed would end there
    CHECK_THROWS_WITH_AS(Threads::run(2,
                                      [&](Threads topology) {
                                        auto model = ShardingPolicy(topology, {.plan = {{{"t", row_wise_shards(6, 4, 2)},
                                                                                         {"u", table_wise_shards(2, 1, 0)}}}})
                                                         .apply(tables(at::kFloat));
                                        const bool odd = topology.rank() == 1;
                                        placed.arrive_and_wait();
                                        try {
                                          model.table("t").write(ids({0, 3}), at::full({2, 4}, odd ? HUGE_VAL : 1.));
                                        } catch (...) {
                                          for (const auto& shard : model.tables()[0].shards)
                                            if (shard.local) left[odd] = shard.local->storage.weight().clone();
                                          throw;
                                        }
                                      }),
                         doctest::Contains("table 'embedding_bags.t': value inf at position 0, column 0, for id 0;"), NonFiniteError);
    CHECK(at::equal(at::cat(left), at::arange(24, at::kFloat).view({6, 4})));
  }
}

}  // namespace rookery
