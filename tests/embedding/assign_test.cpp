// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rk = rookery;

namespace {

struct Batch {
  rk::KeyedJaggedTensor ids;
  std::int64_t size() const { return ids.stride(); }
};
struct Output {
  at::Tensor values;                 // [B, 1]
};
struct Model {
  rk::EmbeddingBagCollection<rk::Rules<rk::Sgd>> tables;
  rk::Mlp over;
  static constexpr auto members() { return rk::members("tables", &Model::tables, "over", &Model::over); }
  auto lookups(const Batch& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Output forward(const Batch&, const auto& pooled) { return {over(get<&Model::tables>(pooled).values())}; }
};
struct Loss {
  static constexpr bool divides = false;
  at::Tensor operator()(const Output& output, const Batch&) const { return output.values.sum(); }
};
Model declared() { return {{{.name = "item", .num_embeddings = 5, .embedding_dim = 2}}, {2, {1}}}; }

}  // namespace

TEST_SUITE("embedding/assign") {
  TEST_CASE("assigned values are those of the placed model, wherever its shards are") {
    rk::Threads::run(2, [](rk::Threads topology) {
      auto model = declared();
      rk::assign(model, "tables.embedding_bags.item.weight", at::arange(10, at::kFloat).view({5, 2}));
      rk::assign(model, "over.layers.0.weight", at::full({1, 2}, topology.rank() + 1.0));     // rank 0's win
      rk::assign(model, "over.layers.0.bias", at::full({1}, .5));
      rk::ShardingPolicy<rk::Threads> sharding{topology, {.constraints = {{"item", {.kinds = {rk::ShardingKind::row_wise}}}}}};
      auto placed = sharding.apply(rk::ModelAndLoss<Model, Loss, Batch>{std::move(model), {}});
      const auto ids = at::arange(5);
      const auto values = placed.predict({rk::KeyedJaggedTensor::from_lengths({"item"}, ids, at::ones({5}, at::kLong))}).values;   // [5, 1]
      if (topology.rank() == 0) CHECK(values.squeeze(1).equal(ids.mul(4).add(1.5)));            // (2i) + (2i + 1) + .5
    });
  }

  TEST_CASE("an unknown name is refused with the names there are") {
    auto model = declared();
    CHECK_THROWS_WITH_AS(rk::assign(model, "over.weight", at::ones({1})),
                         "assign: no parameter, buffer or table 'over.weight'; there are [tables.embedding_bags.item.weight, "
                         "over.layers.0.weight, over.layers.0.bias]",
                         rk::IndexError);
    CHECK_THROWS_AS(rk::assign(model, "over.layers.0.bias", at::ones({2})), rk::ShapeError);
    CHECK_THROWS_AS(rk::assign(model, "tables.embedding_bags.item.weight", at::ones({5, 3})), rk::ShapeError);
  }
}
