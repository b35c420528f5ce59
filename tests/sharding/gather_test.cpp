// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/gather.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <utility>
#include <vector>

#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

using Collection = EmbeddingBagCollection<Rules<RowwiseAdagrad, Adam>>;

const at::Tensor& numbers() {
  static const auto values = at::arange(35, at::kDouble).view({7, 5});
  return values;
}
Collection declared(RuleChoice<Rules<RowwiseAdagrad, Adam>> rule, bool frozen = false) {
  Collection tables{{.name = "t", .num_embeddings = 7, .embedding_dim = 5, .data_type = at::kDouble, .optimizer = rule, .frozen = frozen}};
  assign(tables, "embedding_bags.t.weight", numbers());
  return tables;
}
/// Columns 0 to 2 in two blocks of rows, the rest in three that end elsewhere; some ranks hold several, some none.
Plan staggered(int ranks) {
  return {{{"t", {{{0, 3, 0, 2}, 0}, {{3, 7, 0, 2}, ranks - 1}, {{0, 1, 2, 5}, ranks - 1}, {{1, 5, 2, 5}, 0}, {{5, 7, 2, 5}, ranks - 1}}}}};
}
struct Two {
  Collection user, item;
  static constexpr auto members() { return rookery::members("user", &Two::user, "item", &Two::item); }
  auto lookups(const KeyedJaggedTensor& ids) const { return rookery::lookups(lookup<&Two::user>(ids), lookup<&Two::item>(ids)); }
  struct Output {};
  Output forward(const KeyedJaggedTensor&, const auto&) { return {}; }
};
struct Batch : KeyedJaggedTensor {
  std::int64_t size() const { return stride(); }
};
struct Nothing {
  static constexpr bool divides = false;
  at::Tensor operator()(const Two::Output&, const Batch&) const { return at::zeros({}); }
};

}  // namespace

TEST_SUITE("sharding/gather") {
  TEST_CASE("a table and its state come together on every rank, however they are cut") {
    const auto check_on = [](auto& topology, const ShardingOptions& options) {
      for (const bool rowwise : {true, false}) {
        auto model = maybe_shard_model(rowwise ? declared(RowwiseAdagrad{}) : declared(Adam{}), topology, options);
        CHECK(at::equal(gather_table(model, "t"), numbers()));
        CHECK(at::equal(gather_table(model, "embedding_bags.t"), numbers()));
        Optimizer step(model, Sgd{});
        const auto features = KeyedJaggedTensor::from_lengths({"t"}, at::tensor({1, 4, 6}, at::kLong), at::tensor({3}, at::kLong));
        model(features).values().sum().backward();             // every rank brings a gradient of ones for rows 1, 4 and 6
        step();
        const double ranks = topology.world_size();
        const auto hit = at::tensor({0., 1., 0., 0., 1., 0., 1.}, at::kDouble);
        if (rowwise) {
          CHECK(at::equal(gather_state(model, "t", "momentum1"), hit.mul(ranks * ranks)));   // [E] mean square of the row's gradient
        } else {
          const auto by_column = hit.unsqueeze(1).expand({7, 5});
          CHECK(gather_state(model, "t", "exp_avg").allclose(by_column.mul(.1 * ranks), 1e-14));        // [E, D]
          CHECK(gather_state(model, "t", "exp_avg_sq").allclose(by_column.mul(.001 * ranks * ranks), 1e-14));
        }
        CHECK(!gather_table(model, "t").requires_grad());
      }
    };
    Local local;
    check_on(local, {});
    check_on(local, {.plan = staggered(1)});
    for (const int ranks : {2, 3, 4})
      Threads::run(ranks, [&](Threads topology) {
        check_on(topology, {.plan = staggered(ranks)});
        for (const auto kind : {ShardingKind::row_wise, ShardingKind::column_wise, ShardingKind::data_parallel})
          check_on(topology, {.constraints = {{"t", {.kinds = {kind}}}}});
        check_on(topology, {});
      });
  }

  TEST_CASE("what is gathered is a copy") {
    Local topology;
    auto model = maybe_shard_model(declared(Adam{}), topology);
    gather_table(model, "t").zero_();
    CHECK(at::equal(gather_table(model, "t"), numbers()));
  }

  TEST_CASE("a name that names no table, or two, and a slot that is not there") {
    Local topology;
    auto one = maybe_shard_model(declared(RowwiseAdagrad{}), topology);
    CHECK_THROWS_WITH_AS(gather_table(one, "u"), "no table 'u' in the model; there are [embedding_bags.t]", IndexError);
    CHECK_THROWS_WITH_AS(gather_state(one, "t", "exp_avg"), "table 'embedding_bags.t' under 'rowwise_adagrad' has no state 'exp_avg'",
                         IndexError);
    auto frozen = maybe_shard_model(declared(RowwiseAdagrad{}, true), topology);
    CHECK_THROWS_WITH_AS(gather_state(frozen, "t", "momentum1"), "table 'embedding_bags.t' under 'none' has no state 'momentum1'",
                         IndexError);
    auto two = maybe_shard_model(ModelAndLoss<Two, Nothing, Batch>{{declared(Adam{}), declared(RowwiseAdagrad{})}, {}}, topology);
    CHECK_THROWS_WITH_AS(gather_table(two, "t"), "'t' names 2 tables of the model; give the full name", IndexError);
    CHECK(at::equal(gather_table(two, "item.embedding_bags.t"), numbers()));
    CHECK(gather_state(two, "item.embedding_bags.t", "momentum1").sizes() == at::IntArrayRef({7}));
    CHECK(gather_state(two, "user.embedding_bags.t", "exp_avg").sizes() == at::IntArrayRef({7, 5}));
  }
}

}  // namespace rookery
