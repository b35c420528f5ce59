// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/models/deep_fm.hpp>

#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include <rookery/embedding/assign.hpp>

#include "models/small.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("models/deep_fm") {
  TEST_CASE("logits are those of the factorization machine, and of the layers over its vectors") {
    DeepFm<ModelRules> model({model_table("a", 2, 1), model_table("b", 2, 1)}, {model_table("a", 2, 2), model_table("b", 2, 2)}, {2, 1});
    assign(model, "machine.linear.embedding_bags.a.weight", at::tensor({1., 2.}).view({2, 1}));
    assign(model, "machine.linear.embedding_bags.b.weight", at::tensor({10., 20.}).view({2, 1}));
    assign(model, "machine.factors.embedding_bags.a.weight", at::tensor({1., 2., 3., 4.}).view({2, 2}));
    assign(model, "machine.factors.embedding_bags.b.weight", at::tensor({5., 6., 7., 8.}).view({2, 2}));
    assign(model, "machine.bias", at::tensor({.5}));
    assign(model, "deep.layers.0.weight", at::tensor({1., 0., 0., -1., -1., 0., 0., 1.}).view({2, 4}));
    assign(model, "deep.layers.0.bias", at::zeros({2}));
    assign(model, "deep.layers.1.weight", at::tensor({100., 1000.}).view({1, 2}));
    assign(model, "deep.layers.1.bias", at::tensor({.25}));
    const auto logits = logits_of(std::move(model), {.ids = bags({"a", "b"}, {{{0}, {}}, {{1}, {}}})});
    CHECK(logits[0].item<double>() == .5 + 1 + 20 + (1 * 7 + 2 * 8) + 1000 * (8 - 1) + .25);
    CHECK(logits[1].item<double>() == .5 + .25);
  }

  TEST_CASE("it learns one batch by heart") {
    auto a = model_table("a", 4, 4), b = model_table("b", 4, 4);
    const ModelBatch batch{.labels = at::tensor({1., 0., 0., 1.}), .ids = bags({"a", "b"}, {{{0}, {1}, {2}, {3}}, {{3}, {2}, {1}, {0}}})};
    const auto [first, last] =
        loss_before_and_after(DeepFm<ModelRules>({model_table("a", 4, 1), model_table("b", 4, 1)}, {a, b}, {8, 1}), batch);
    CHECK(last < .2 * first);
  }

  TEST_CASE("layers that do not end with one logit are refused") {
    using Model = DeepFm<ModelRules>;
    const auto line = model_table("a", 2, 1), factor = model_table("a", 2, 4);
    CHECK_THROWS_WITH_AS(Model({line}, {factor}, {8, 2}), "DeepFm: the deep layers must end with one logit", ConfigError);
    CHECK_THROWS_AS(Model({line}, {factor}, {}), ConfigError);
    CHECK_THROWS_WITH_AS(Model({line}, {}, {1}), "FactorizationMachine: no factor tables", ConfigError);
  }
}

}  // namespace rookery
