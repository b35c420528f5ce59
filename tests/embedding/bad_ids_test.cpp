// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// What happens to ids that their table has no row for, by policy: refused, dropped, or their bag left empty. Never another row.
#include <rookery/embedding/embedding_bag_collection.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

using Set = Rules<Sgd>;
using Bags = EmbeddingBagCollection<Set>;

/// Rows 1, 2, 3, 4 in one column, summed or averaged.
Bags tables(BadIds policy, PoolingType pooling, bool weighted = false) {
  Bags declared{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1, .pooling = pooling, .data_type = at::kDouble,
                  .optimizer = Sgd{.learning_rate = 1}}},
                {.is_weighted = weighted, .bad_ids = policy}};
  declared.assign("t", at::arange(1, 5, at::kDouble).view({4, 1}));
  return declared;
}
KeyedJaggedTensor batch(at::Tensor weights = {}) {            // [0, 9], [3], [-1, 2, 2], []
  return KeyedJaggedTensor::from_lengths({"t"}, at::tensor({0, 9, 3, -1, 2, 2}, at::kLong), at::tensor({2, 1, 3, 0}, at::kLong),
                                         std::move(weights));
}
at::Tensor numbers(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

}  // namespace

TEST_SUITE("embedding/bad_ids") {
  TEST_CASE("B1 dropped ids leave their bag and are counted; the others' sums, means and gradients are those of the rest") {
    for (const bool mean : {false, true}) {
      auto model = ShardingPolicy<Local>{}.apply(tables(BadIds::drop, mean ? PoolingType::mean : PoolingType::sum));
      Optimizer step{model, Sgd{}};
      const auto out = model(batch()).values();
      CHECK(at::equal(out.detach().reshape({-1}), mean ? numbers({1, 4, 3, 0}) : numbers({1, 4, 6, 0})));
      out.sum().backward();
      step();
      CHECK(at::equal(gather_table(model, "t").reshape({-1}), mean ? numbers({0, 2, 2, 3}) : numbers({0, 2, 1, 3})));
      const auto bad = model.bad_ids();
      CHECK(bad.size() == 1);
      CHECK(bad[0].feature == "t");
      CHECK(bad[0].count == 2);
    }
  }

  TEST_CASE("B1 a bag that holds one is left empty as a whole") {
    auto model = ShardingPolicy<Local>{}.apply(tables(BadIds::empty_bag, PoolingType::mean));
    Optimizer step{model, Sgd{}};
    const auto out = model(batch()).values();
    CHECK(at::equal(out.detach().reshape({-1}), numbers({0, 4, 0, 0})));
    out.sum().backward();
    step();
    CHECK(at::equal(gather_table(model, "t").reshape({-1}), numbers({1, 2, 3, 3})));
    CHECK(model.bad_ids().at(0).count == 2);
    model(batch());
    CHECK(model.bad_ids().at(0).count == 4);
  }

  TEST_CASE("weights of the ids that stay keep their places, and their gradients") {
    auto model = ShardingPolicy<Local>{}.apply(tables(BadIds::drop, PoolingType::sum, true));
    const auto weights = numbers({10, 20, 30, 40, 50, 60}).set_requires_grad(true);
    const auto out = model(batch(weights)).values();
    CHECK(at::equal(out.detach().reshape({-1}), numbers({10, 120, 330, 0})));
    out.sum().backward();
    CHECK(at::equal(weights.grad(), numbers({1, 0, 4, 0, 3, 3})));
  }

  TEST_CASE("sequences are shorter by the ids dropped") {
    EmbeddingCollection<Set> declared{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1}}, {.bad_ids = BadIds::drop}};
    declared.assign("t", at::arange(1, 5, at::kDouble).view({4, 1}));
    auto model = ShardingPolicy<Local>{}.apply(std::move(declared));
    const auto found = model(batch());
    CHECK(at::equal(found["t"].values().detach().reshape({-1}), numbers({1, 4, 3, 3}).to(at::kFloat)));
    CHECK(at::equal(found["t"].lengths(), at::tensor({1, 1, 2, 0}, at::kLong)));
  }

  TEST_CASE("on several ranks each counts its own, and what is learned is the same") {
    Threads::run(2, [](Threads topology) {
      ShardingPolicy sharding{topology, {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}}}};
      auto model = sharding.apply(tables(BadIds::drop, PoolingType::sum));
      Optimizer step{model, Sgd{}};
      const auto mine = batch().slice(topology.rank() == 0 ? 0 : 1, topology.rank() == 0 ? 1 : 4);
      model(mine).values().sum().backward();
      step();
      CHECK(at::equal(gather_table(model, "t").reshape({-1}), numbers({0, 2, 1, 3})));
      CHECK(model.bad_ids().at(0).count == 1);
    });
  }
}

}  // namespace rookery
