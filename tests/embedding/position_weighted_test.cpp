// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/embedding/position_weighted.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/loss/bce.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/sgd.hpp>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Batch {
  at::Tensor labels;                                         // [B]
  KeyedJaggedTensor ids;
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() { return rookery::members("labels", &Batch::labels, "ids", &Batch::ids); }
};
struct Output {
  at::Tensor logits;                                         // [B]
};
struct History {
  EmbeddingBagCollection<Rules<Sgd>> tables;
  PositionWeighted position;
  static constexpr auto members() { return rookery::members("tables", &History::tables, "position", &History::position); }
  auto lookups(const Batch& b) const { return rookery::lookups(rookery::lookup<&History::tables>(position(b.ids))); }
  Output forward(const Batch&, const auto& pooled) { return {get<&History::tables>(pooled).values().sum(1).mul(5)}; }
};

ModelAndLoss<History, Bce, Batch> declared() {
  const auto table = [](const char* name, std::int64_t rows, std::int64_t dim) {
    return EmbeddingBagConfig<Rules<Sgd>>{.name = name, .num_embeddings = rows, .embedding_dim = dim, .data_type = at::kDouble,
                                          .optimizer = Sgd{.learning_rate = .1}};
  };
  return {{{{table("f1", 9, 3), table("f2", 7, 2)}, {.is_weighted = true}}, PositionWeighted({{"f1", 5}}, at::kDouble)}, {}};
}

/// Ids, bag after bag, of two features; the features' lengths one after the other.
KeyedJaggedTensor two_features(at::Tensor weights = {}) {
  return KeyedJaggedTensor::from_lengths({"f1", "f2"}, at::arange(8, at::kLong), at::tensor({2, 0, 1, 1, 1, 3}, at::kLong),
                                         std::move(weights));
}
/// Places with p[i] = 10^i, so that the weight of an id says its position.
PositionWeighted placed(const std::vector<PositionWeightedConfig>& configs) {
  PositionWeighted position(configs, at::kDouble);
  for (auto& [name, p] : position.position_weights) {
    p.assign(at::tensor({1., 10., 100., 1000.}, at::kDouble).narrow(0, 0, p.numel()));
    p.place(name, 0);
  }
  return position;
}

}  // namespace

TEST_SUITE("embedding/position_weighted") {
  TEST_CASE("A26 PositionWeighted: the weight is that of the position in the bag") {
    const auto weighted = placed({{"f1", 2}, {"f2", 4}})(two_features());
    CHECK(at::equal(weighted["f1"].weights(), at::tensor({1., 10., 1.}, at::kDouble)));
    CHECK(at::equal(weighted["f2"].weights(), at::tensor({1., 1., 1., 10., 100.}, at::kDouble)));
    CHECK(weighted.keys() == two_features().keys());
    CHECK(at::equal(weighted.values(), two_features().values()));
    CHECK(at::equal(weighted.lengths(), two_features().lengths()));
  }
  TEST_CASE("weights start at 1; features that are not named keep it, and given weights are multiplied") {
    PositionWeighted fresh({{"f2", 3}}, at::kDouble);
    fresh.position_weights[0].value.place("f2", 0);
    CHECK(at::equal(fresh(two_features()).weights(), at::ones({8}, at::kDouble)));
    const auto given = at::tensor({1., 2., 3., 4., 5., 6., 7., 8.}, at::kDouble);
    CHECK(at::equal(fresh(two_features(given)).weights(), given));
    CHECK(at::equal(placed({{"f2", 4}})(two_features(given)).weights(), at::tensor({1., 2., 3., 4., 5., 6., 70., 800.}, at::kDouble)));
  }
  TEST_CASE("gradients add up at the positions") {
    const auto position = placed({{"f1", 2}, {"f2", 4}});
    position(two_features()).weights().mul(at::arange(1, 9, at::kDouble)).sum().backward();
    CHECK(at::equal(position.position_weights[0].value.tensor().grad(), at::tensor({1. + 3., 2.}, at::kDouble)));
    CHECK(at::equal(position.position_weights[1].value.tensor().grad(), at::tensor({4. + 5. + 6., 7., 8., 0.}, at::kDouble)));
  }
  TEST_CASE("no rows and no ids are none") {
    const auto position = placed({{"f1", 2}});
    CHECK(position(KeyedJaggedTensor{}).weights().numel() == 0);
    const auto empty = KeyedJaggedTensor::from_lengths({"f1"}, at::arange(0, at::kLong), at::tensor({0, 0}, at::kLong));
    CHECK(position(empty).weights().numel() == 0);
  }
  TEST_CASE("a bag that is too long, and what cannot be, are refused in one sentence") {
    CHECK_THROWS_WITH_AS(placed({{"f2", 2}})(two_features()),
                         "PositionWeighted: feature 'f2' has 3 ids in row 2; its max_feature_length is 2", IndexError);
    CHECK_THROWS_WITH_AS(PositionWeighted({{"f1", 0}}), "PositionWeighted: feature 'f1' has max_feature_length 0; it must be positive",
                         ConfigError);
    CHECK_THROWS_WITH_AS(PositionWeighted({{"f1", 2}, {"f1", 3}}), "PositionWeighted: feature 'f1' is given twice", ConfigError);
    CHECK_THROWS_AS(PositionWeighted({{"f1", 2}})(two_features()), ConfigError);   // not placed
  }
  TEST_CASE("a feature that no table has is refused when the model is placed: nothing would train its weights") {
    auto misspelt = declared();
    misspelt.model.position = PositionWeighted({{"f1", 5}, {"f3", 5}}, at::kDouble);
    CHECK_THROWS_WITH_AS(ShardingPolicy<Local>{}.apply(std::move(misspelt)),
                         "a part of the model is for feature 'f3', which none of its tables has; there are [f1, f2]", ConfigError);
  }
  TEST_CASE("in a model the weights are parameters, named by feature, and sharded equals local") {
    const auto train = [](auto& topology, Plan plan) {
      const ShardingPolicy<std::remove_cvref_t<decltype(topology)>> sharding(topology, {.plan = std::move(plan), .seed = 5});
      auto model = sharding.apply(declared());
      Optimizer step(model, Adam{.learning_rate = .05, .eps = 1e-6});
      CHECK(step.dense().parameters().front().name == "position.position_weights.f1");
      for (std::uint64_t i = 0; i < 5; ++i) {
        Draw draw(i);
        const auto ids = random_features(draw, {"f1", "f2"}, {9, 7}, 10, {.longest_bag = 5});
        const Batch whole{draw.tensor({10}).gt(0).to(at::kDouble), ids};
        const std::int64_t cut = i == 3 ? 0 : 7;
        model(topology.world_size() == 1 ? whole : topology.rank() == 0 ? slice(whole, 0, cut) : slice(whole, cut, 10)).loss.backward();
        step();
      }
      Tensors found{{"p", model.model().position.position_weights[0].value.tensor().detach().clone()}};
      gather_tables(model, found);
      return found;
    };
    Local local;
    const auto expected = train(local, {});
    CHECK(!at::equal(expected[0].second, at::ones({5}, at::kDouble)));
    Threads::run(2, [&](Threads topology) {
      const auto found = train(topology, {.tables = {{"f1", row_wise_shards(9, 3, 2)}, {"f2", {{{0, 7, 0, 1}, 0}, {{0, 7, 1, 2}, 1}}}}});
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(difference(found[i].second, expected[i].second) <= tolerance(at::kDouble));
    });
  }
}

}  // namespace rookery
