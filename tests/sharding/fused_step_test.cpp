// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sharding/fused_step.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <string>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {

namespace {

using Set = Rules<RowwiseAdagrad, Sgd>;

/// Row 1 is in three bags of `t`, and in one of `u` with the same rows.
KeyedJaggedTensor batch() {
  return KeyedJaggedTensor::from_lengths({"t", "u"}, at::tensor({1, 0, 1, 1, 2, 1}, at::kLong), at::tensor({1, 2, 1, 2, 0, 0}, at::kLong));
}
EmbeddingBagCollection<Set> declared(RuleChoice<Set> rule) {
  return {{.name = "t", .num_embeddings = 3, .embedding_dim = 4, .optimizer = rule},
          {.name = "u", .num_embeddings = 3, .embedding_dim = 4, .pooling = PoolingType::mean, .optimizer = rule}};
}
/// Weights of both tables after two steps by a gradient of `size`, and the norm of the last.
template <class Topology> std::vector<at::Tensor> trained(Topology& topology, RuleChoice<Set> rule, float size, double clip_norm) {
  ShardingPolicy<Topology> sharding{topology};
  auto model = sharding.apply(declared(rule));
  Optimizer step(model, Sgd{}, {.clip_norm = clip_norm});
  for (int i = 0; i < 2; ++i) {
    const auto pooled = model(batch()).values();                                             // [3, 8]
    pooled.backward(at::full({3, 8}, size));
    step();
  }
  return {gather_table(model, "t"), gather_table(model, "u"), at::full({}, step.gradient_norm(), at::kDouble)};
}

}  // namespace

TEST_SUITE("sharding/fused_step") {
  TEST_CASE("a step in one pass is a step that sums first, with its norm") {
    for (const RuleChoice<Set> rule : {RuleChoice<Set>(RowwiseAdagrad{.learning_rate = .1}), RuleChoice<Set>(Sgd{.learning_rate = .1})}) {
      Local local;
      const auto wanted = trained(local, rule, .5F, 1e6);    // a clip that never clips
      const auto found = trained(local, rule, .5F, 0);
      for (std::size_t i = 0; i < 2; ++i) CHECK(found[i].sub(wanted[i]).abs().max().item<double>() <= 1e-6);
      CHECK(found[2].item<double>() == doctest::Approx(wanted[2].item<double>()).epsilon(1e-6));
      CHECK(wanted[2].item<double>() > 1);
    }
  }
  TEST_CASE("sums that overflow stop a step though each gradient is finite, and no row changes") {
    const auto check = [](auto& topology) {
      ShardingPolicy sharding{topology};
      auto model = sharding.apply(declared(Sgd{.learning_rate = .1}));
      Optimizer step(model, Sgd{});
      const auto before = std::vector{gather_table(model, "t"), gather_table(model, "u")};
      model(batch()).values().backward(at::full({3, 8}, 2e38F));
      std::string said;
      try {
        step();
      } catch (const NonFiniteError& error) {
        said = error.what();
      }
      CHECK(said.find("step 1: the gradient of 'embedding_bags.t.weight' is not finite") != std::string::npos);
      CHECK(at::equal(gather_table(model, "t"), before[0]));
      CHECK(at::equal(gather_table(model, "u"), before[1]));
      model(batch()).values().backward(at::full({3, 8}, 1e37F));   // large, and their sums are finite
      CHECK(step());
      CHECK(std::isfinite(step.gradient_norm()));
      CHECK(!at::equal(gather_table(model, "t"), before[0]));
    };
    Local local;
    check(local);
    Threads::run(2, [&](Threads topology) { check(topology); });
  }
}

}  // namespace rookery
