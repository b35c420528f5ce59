// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What a forward pass leaves for the step, and what it must not.

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/gradient_exchange.hpp>
#include <rookery/sharding/lookup_exchange.hpp>
#include <rookery/sharding/model_and_loss.hpp>
#include <rookery/sharding/placement.hpp>
#include <rookery/sharding/routing.hpp>
#include <rookery/sharding/sharded.hpp>
#include <rookery/sharding/capture.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sharding/table_runtime.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rk = rookery;

namespace {

using Rules = rk::Rules<rk::Sgd, rk::RowwiseAdagrad>;

struct Batch {
  rk::KeyedJaggedTensor items, negatives;
  double divisor = 1;
  at::Tensor own_divisor{};            // [] instead of `divisor`
  std::int64_t size() const { return items.stride(); }
};
struct Output {
  at::Tensor items, negatives;       // [B, D], [N, D]
};
struct Model {
  rk::EmbeddingBagCollection<Rules> item;
  rk::Linear over;
  static constexpr auto members() { return rk::members("item", &Model::item, "over", &Model::over); }
  auto lookups(const Batch& b) const {
    return rk::lookups(rk::lookup<&Model::item>(b.items), rk::lookup<&Model::item, "negatives">(b.negatives));
  }
  Output forward(const Batch&, const auto& pooled) {
    return {over(get<&Model::item>(pooled).values()), get<&Model::item, "negatives">(pooled).values()};
  }
};
struct Sum {
  at::Tensor operator()(const Output& o, const Batch&) const { return o.items.sum().add(o.negatives.sum()); }
  at::Tensor normaliser(const Batch& b) const {
    return b.own_divisor.defined() ? b.own_divisor : at::full({}, b.divisor, at::kDouble);
  }
};
using Trained = rk::ModelAndLoss<Model, Sum, Batch>;

rk::KeyedJaggedTensor ids(const std::vector<std::int64_t>& values) {
  auto tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int64_t>());
  return rk::KeyedJaggedTensor::from_lengths({"item"}, tensor, at::ones({tensor.numel()}, at::kLong));
}
/// Ten rows of two columns, and a layer that multiplies by ones.
Model declared(rk::RuleChoice<Rules> rule = rk::Sgd{.learning_rate = 1}) {
  Model model{{{.name = "item", .num_embeddings = 10, .embedding_dim = 2, .data_type = at::kDouble, .optimizer = rule}},
              {2, 1, at::kDouble}};
  rk::assign(model, "item.embedding_bags.item.weight", at::arange(20, at::kDouble).view({10, 2}));
  rk::assign(model, "over.weight", at::ones({1, 2}));
  rk::assign(model, "over.bias", at::zeros({1}));
  return model;
}
rk::Plan two_by_two() {
  return {{{"item", {{{0, 5, 0, 1}, 0}, {{0, 5, 1, 2}, 0}, {{5, 10, 0, 1}, 0}, {{5, 10, 1, 2}, 0}}}}};
}

}  // namespace

TEST_SUITE("sharding/captures") {
  TEST_CASE("several shards of a table on one process look up and update as one") {
    for (const bool rowwise : {false, true}) {
      const rk::RuleChoice<Rules> rule =
          rowwise ? rk::RuleChoice<Rules>{rk::RowwiseAdagrad{.learning_rate = 1}} : rk::RuleChoice<Rules>{rk::Sgd{.learning_rate = 1}};
      std::vector<at::Tensor> tables;
      for (const bool split : {false, true}) {
        rk::ShardingPolicy<rk::Local> sharding{rk::ShardingOptions{.plan = split ? two_by_two() : rk::Plan{}}};
        auto model = sharding.apply(Trained{declared(rule), {}});
        rk::Optimizer step{model, rk::Sgd{.learning_rate = .1}};
        const Batch batch{ids({0, 9, 4, 5, 0}), ids({9, 1}), 2};
        auto [loss, output] = model(batch);
        CHECK(output.negatives.equal(at::arange(20, at::kDouble).view({10, 2}).index_select(0, batch.negatives.values())));
        loss.backward();
        step();
        tables.push_back(rk::gather_table(model, "item"));
      }
      CHECK(tables[0].equal(tables[1]));
      CHECK(!tables[0].equal(at::arange(20, at::kDouble).view({10, 2})));
    }
  }

  TEST_CASE("lookups of one batch may have different numbers of rows, on every topology") {
    const auto run = [](auto& topology, const Batch& batch) {
      rk::ShardingPolicy sharding{topology, {.constraints = {{"item", {.kinds = {rk::ShardingKind::row_wise}}}}}};
      auto model = sharding.apply(Trained{declared(), {}});
      rk::Optimizer step{model, rk::Sgd{.learning_rate = .1}};
      model(batch).loss.backward();
      step();
      return rk::gather_table(model, "item");
    };
    rk::Local local;
    const auto expected = run(local, {ids({1, 2, 3}), ids({4, 5, 6, 7, 8}), 3});
    rk::Threads::run(2, [&](rk::Threads topology) {
      const auto mine = topology.rank() == 0 ? Batch{ids({1}), ids({4, 5, 6, 7}), 1} : Batch{ids({2, 3}), ids({8}), 2};
      CHECK(run(topology, mine).allclose(expected, 1e-12, 1e-12));
    });
  }

  TEST_CASE("a batch may be reused before the step") {
    rk::ShardingPolicy<rk::Local> sharding;
    auto model = sharding.apply(Trained{declared(), {}});
    rk::Optimizer step{model, rk::Sgd{.learning_rate = .1}};
    Batch batch{ids({1}), ids({}), 1, at::ones({}, at::kDouble)};
    auto [loss, output] = model(batch);
    loss.backward();
    batch.items.values().fill_(200);
    batch.own_divisor.fill_(1000);
    step();
    const auto table = rk::gather_table(model, "item");
    CHECK(table[1].equal(at::arange(2, 4, at::kDouble).sub(1)));
  }

  TEST_CASE("a pass whose loss is not back-propagated does not count") {
    rk::ShardingPolicy<rk::Local> sharding;
    auto model = sharding.apply(Trained{declared(), {}});
    rk::Optimizer step{model, rk::Sgd{.learning_rate = 1}};
    const Batch batch{ids({1}), ids({}), 1};
    model(batch);                        // looked at, not trained on
    model(batch).loss.backward();
    step();
    CHECK(rk::gather_table(model, "item")[1][0].item<double>() == 1.0);       // 2 - 1, not 2 - 1/2
  }

  TEST_CASE("without training nothing requires grad and nothing is kept") {
    rk::ShardingPolicy<rk::Local> sharding;
    auto model = sharding.apply(Trained{declared(), {}});
    rk::Optimizer step{model, rk::Sgd{}};
    model.train(false);
    const auto [loss, output] = model({ids({1}), ids({2}), 1});
    CHECK(!loss.requires_grad());
    CHECK(!output.items.requires_grad());
    CHECK_THROWS_WITH_AS(step(), "Optimizer: step() without a forward pass in training since the last one", rk::Error);
  }

  TEST_CASE("a loss that throws leaves nothing behind") {
    struct Fails {
      at::Tensor operator()(const Output& o, const Batch& b) const {
        rk::check<rk::ConfigError>(b.divisor != 7, "seven");
        return o.items.sum();
      }
      at::Tensor normaliser(const Batch&) const { return at::ones({}); }
    };
    rk::ShardingPolicy<rk::Local> sharding;
    auto model = sharding.apply(rk::ModelAndLoss<Model, Fails, Batch>{declared(), {}});
    CHECK_THROWS_AS(model({ids({1}), ids({}), 7}), rk::ConfigError);
    CHECK(model.runtime().captures().empty());
  }

  TEST_CASE("a normaliser that is not finite follows the policy, and the next step is sound") {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1.0}) {
      rk::ShardingPolicy<rk::Local> sharding;
      auto model = sharding.apply(Trained{declared(), {}});
      rk::Optimizer skips{model, rk::Sgd{.learning_rate = 1}, {.non_finite = rk::NonFinite::skip}};
      model({ids({1}), ids({}), bad}).loss.backward();
      CHECK(!skips());
      CHECK(rk::gather_table(model, "item").equal(at::arange(20, at::kDouble).view({10, 2})));
      model({ids({1}), ids({}), 1}).loss.backward();
      CHECK(skips());
      rk::Optimizer stops{model, rk::Sgd{.learning_rate = 1}};
      model({ids({1}), ids({}), bad}).loss.backward();
      CHECK_THROWS_AS(stops(), rk::NonFiniteError);
      model({ids({1}), ids({}), 1}).loss.backward();
      CHECK(stops());
    }
  }

  TEST_CASE("the normaliser keeps float64 over ranks, whatever the dense parameters are") {
    rk::Threads::run(2, [](rk::Threads topology) {
      rk::ShardingPolicy<rk::Threads> sharding{topology};
      auto model = sharding.apply(Trained{declared(), {}});
      rk::Optimizer step{model, rk::Sgd{.learning_rate = 1}};
      model({ids({1}), ids({}), 1.0 / 3}).loss.backward();
      step();
      CHECK(std::abs(rk::gather_table(model, "item")[1][0].item<double>() - (2 - 2 / (2.0 / 3))) < 1e-14);
    });
  }

  TEST_CASE("a learning rate factor multiplies every rate") {
    rk::ShardingPolicy<rk::Local> sharding;
    auto model = sharding.apply(Trained{declared(), {}});
    rk::Optimizer step{model, rk::Sgd{.learning_rate = 1}};
    step.set_learning_rate_factor(.25);
    model({ids({1}), ids({}), 1}).loss.backward();
    step();
    CHECK(rk::gather_table(model, "item")[1][0].item<double>() == 1.75);
    CHECK(model.model().over.bias->tensor().item<double>() == -.25);
    CHECK_THROWS_AS(step.set_learning_rate_factor(-1), rk::ConfigError);
  }

  TEST_CASE("a model is placed once, and assigned values are its own from then on") {
    auto values = at::ones({10, 2}, at::kDouble);
    auto model = declared();
    rk::assign(model, "item.embedding_bags.item.weight", values);
    rk::ShardingPolicy<rk::Local> sharding;
    auto placed = sharding.apply(Trained{model, {}});
    values.zero_();
    CHECK_THROWS_AS(sharding.apply(Trained{std::move(model), {}}), rk::ConfigError);           // changed since they were assigned
    CHECK(rk::gather_table(placed, "item").equal(at::ones({10, 2}, at::kDouble)));
    CHECK_THROWS_AS(sharding.apply(Trained{placed.model(), {}}), rk::ConfigError);
  }

  TEST_CASE("an optimizer sums nothing of a batch that no rank has rows of") {
    rk::Threads::run(2, [](rk::Threads topology) {
      rk::ShardingPolicy<rk::Threads> sharding{topology};
      auto model = sharding.apply(Trained{declared(), {}});
      rk::Optimizer step{model, rk::Sgd{.learning_rate = 1}};
      auto [loss, output] = model({ids({}), ids({}), 0});
      loss.backward();
      CHECK(step());
      CHECK(rk::gather_table(model, "item").equal(at::arange(20, at::kDouble).view({10, 2})));
    });
  }
}
