// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Tables of managed collision at work: any ids, on every topology and plan.
#include <rookery/embedding/managed_collision.hpp>
#include <rookery/embedding/row_vocabulary.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Draw;
using Set = Rules<Sgd, Adagrad, RowwiseAdagrad>;
using Bags = EmbeddingBagCollection<Set>;

KeyedJaggedTensor ids_of(const std::vector<std::int64_t>& ids) {
  return KeyedJaggedTensor::from_lengths({"t"}, at::tensor(ids, at::kLong), at::ones({static_cast<std::int64_t>(ids.size())}, at::kLong));
}
Bags declared(std::int64_t rows, ManagedCollision ids, RuleChoice<Set> rule) {
  return {{.name = "t", .num_embeddings = rows, .embedding_dim = 4, .data_type = at::kDouble, .optimizer = rule, .managed_collision = ids}};
}
/// Ten steps on random ids that ranks share out; what the last pass looks up for ids 0 to 29, the table and its state.
template <class Topology> std::vector<at::Tensor> trained(Topology& topology, const Plan& plan, const ManagedCollision& ids) {
  ShardingPolicy sharding{topology, {.plan = plan, .seed = 3}};
  auto model = sharding.apply(declared(16, ids, RowwiseAdagrad{.learning_rate = .1}));
  Optimizer step{model, Sgd{}};
  Draw draw(6);
  for (int i = 0; i < 10; ++i) {
    std::vector<std::int64_t> mine;
    for (int k = 0; k < 14; ++k) {
      const auto id = draw.integer(0, 29) * 1'000'000'007;
      if (k % topology.world_size() == topology.rank()) mine.push_back(id);
    }
    model(ids_of(mine)).values().square().sum().backward();
    step();
  }
  std::vector<std::int64_t> all;
  for (std::int64_t id = 0; id < 30; ++id) all.push_back(id * 1'000'000'007);
  model.train(false);
  return {model(ids_of(all)).values(), gather_table(model, "t"), gather_state(model, "t", "momentum1")};
}

}  // namespace

TEST_SUITE("sharding/managed_collision") {
  TEST_CASE("any id trains; one without a row shares the last; one that returns after eviction starts anew") {
    Local topology;
    ShardingPolicy sharding{topology};
    auto model = sharding.apply(declared(3, {.eviction = Eviction::lru}, Adagrad{.learning_rate = 1}));
    Optimizer step{model, Sgd{}};
    const auto pass = [&](const std::vector<std::int64_t>& ids) {
      const auto out = model(ids_of(ids)).values();
      out.sum().backward();
      step();
      return out.detach().clone();
    };
    const auto shared = gather_table(model, "t")[2].clone();
    const auto first = pass({-5, 1'000'000'000'000});
    CHECK(at::equal(first[0], shared));                                // no rows yet
    CHECK(at::equal(first[1], shared));
    model.train(false);
    const auto fresh = model(ids_of({-5, 1'000'000'000'000, 77})).values().clone();
    CHECK(!at::equal(fresh[0], fresh[1]));                             // rows of their own, untrained
    CHECK(at::equal(fresh[2], gather_table(model, "t")[2]));
    model.train();
    pass({-5});
    pass({8});                                                         // the other id was seen longest ago
    pass({8});
    model.train(false);
    CHECK(at::equal(model(ids_of({1'000'000'000'000})).values()[0], gather_table(model, "t")[2]));
    model.train();
    pass({1'000'000'000'000});                                         // takes the row of -5
    model.train(false);
    const auto again = model(ids_of({1'000'000'000'000})).values();
    CHECK(at::equal(again[0], fresh[1]));                              // the values that belong to the id
    const auto state = gather_state(model, "t", "momentum1");
    CHECK(state.min().item<double>() == 0);                            // a fresh start of its state
  }

  TEST_CASE("prediction and skipped steps leave the vocabulary as it is") {
    Local topology;
    ShardingPolicy sharding{topology};
    auto model = sharding.apply(declared(4, {}, Sgd{.learning_rate = 1}));
    Optimizer step{model, Sgd{}, {.non_finite = NonFinite::skip}};
    model.train(false);
    model(ids_of({1, 2, 3}));
    model.train();
    const auto last = gather_table(model, "t")[3].clone();
    auto out = model(ids_of({1, 2})).values();
    out.sum().mul(std::numeric_limits<double>::quiet_NaN()).backward();
    CHECK(!step());
    model.train(false);
    CHECK(at::equal(model(ids_of({1})).values()[0], last));
  }

  TEST_CASE("every plan and number of ranks gives ids the same rows and values as one process") {
    for (const auto eviction : {Eviction::lru, Eviction::lfu, Eviction::distance_lfu}) {
      const ManagedCollision ids{.eviction = eviction, .threshold = 2, .interval = 2, .buckets = 4};
      Local local;
      const auto expected = trained(local, {}, ids);
      const std::vector<Plan> plans{
          {{{"t", row_wise_shards(16, 4, 2, 4)}}},
          {{{"t", {{{0, 4, 0, 4}, 1}, {{4, 16, 0, 1}, 0}, {{4, 16, 1, 4}, 1}}}}},
          {{{"t", table_wise_shards(16, 4, 1)}}},
      };
      for (const auto& plan : plans)
        Threads::run(2, [&](Threads topology) {
          const auto found = trained(topology, plan, ids);
          for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i].sub(expected[i]).abs().max().item<double>() < 1e-11);
        });
    }
  }

  TEST_CASE("a frozen table has none: its rows would change") {
    CHECK_THROWS_WITH_AS(
        Bags({{.name = "t", .num_embeddings = 4, .embedding_dim = 2, .frozen = true, .managed_collision = ManagedCollision{}}}),
        "EmbeddingBagCollection: table 't' is frozen and has managed collision, which gives rows new values", ConfigError);
  }

  TEST_CASE("a plan that cuts a bucket is refused; the default placement cuts none") {
    Threads::run(3, [](Threads topology) {
      const auto make = [] { return declared(16, {.buckets = 4}, Sgd{}); };
      CHECK_THROWS_WITH_AS(
          ShardingPolicy(topology, {.plan = {{{"t", row_wise_shards(16, 4, 3)}}}}).apply(make()),
          "Plan: table 'embedding_bags.t' has a shard of rows 0 to 6; its buckets of managed collision have 4 rows and none "
          "may be cut",
          PlanError);
      auto model = ShardingPolicy(topology, {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}}}).apply(make());
      CHECK(model.tables()[0].shards.size() == 3);
      CHECK_THROWS_WITH_AS(
          ShardingPolicy(topology, {.constraints = {{"t", {.kinds = {ShardingKind::data_parallel}}}}}).apply(make()),
          "Plan: table 'embedding_bags.t' has a copy on every rank; the vocabulary of managed collision needs one place for each id",
          PlanError);
    });
  }
}

}  // namespace rookery
