// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/models/factorization_machine.hpp>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <string>
#include <vector>

#include <rookery/embedding/assign.hpp>

#include "models/small.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("models/factorization_machine") {
  TEST_CASE("half of the square of the sum less the sum of squares is the sum over all pairs") {
    Draw draw(1);
    for (int i = 0; i < 50; ++i) {
      const auto B = draw.integer(0, 5), F = draw.integer(1, 7), D = draw.integer(1, 9);
      const auto vectors = draw.tensor({B, F, D});
      auto pairs = at::zeros({B}, at::kDouble);
      for (std::int64_t f = 0; f < F; ++f)
        for (std::int64_t g = f + 1; g < F; ++g) pairs = pairs.add(vectors.select(1, f).mul(vectors.select(1, g)).sum(1));
      CHECK(pairwise_products(vectors).sub(pairs).abs().sum().item<double>() < 1e-12);
    }
  }

  TEST_CASE("logits are bias, first order and pairs") {
    FactorizationMachine<ModelRules> model({model_table("a", 2, 1), model_table("b", 2, 1)},
                                           {model_table("a", 2, 2), model_table("b", 2, 2)});
    assign(model, "linear.embedding_bags.a.weight", at::tensor({1., 2.}).view({2, 1}));
    assign(model, "linear.embedding_bags.b.weight", at::tensor({10., 20.}).view({2, 1}));
    assign(model, "factors.embedding_bags.a.weight", at::tensor({1., 2., 3., 4.}).view({2, 2}));
    assign(model, "factors.embedding_bags.b.weight", at::tensor({5., 6., 7., 8.}).view({2, 2}));
    assign(model, "bias", at::tensor({.5}));
    const auto logits = logits_of(std::move(model), {.ids = bags({"a", "b"}, {{{0}, {1}, {}, {0, 1}}, {{1}, {0}, {1}, {0}}})});
    CHECK(logits[0].item<double>() == .5 + 1 + 20 + (1 * 7 + 2 * 8));
    CHECK(logits[1].item<double>() == .5 + 2 + 10 + (3 * 5 + 4 * 6));
    CHECK(logits[2].item<double>() == .5 + 20);
    CHECK(logits[3].item<double>() == .5 + 3 + 10 + (4 * 5 + 6 * 6));
  }

  TEST_CASE("it learns what is in no single feature") {
    const auto ids = bags({"a", "b"}, {{{0}, {0}, {1}, {1}}, {{0}, {1}, {0}, {1}}});        // label: a == b
    const ModelBatch batch{.labels = at::tensor({1., 0., 0., 1.}), .ids = ids};
    auto a = model_table("a", 2, 4), b = model_table("b", 2, 4);
    a.optimizer = b.optimizer = Adam{.learning_rate = .05};
    const auto [first, last] =
        loss_before_and_after(FactorizationMachine<ModelRules>({model_table("a", 2, 1), model_table("b", 2, 1)}, {a, b}), batch);
    CHECK(last < .3 * first);
  }

  TEST_CASE("widths that cannot be are refused in one sentence") {
    using Model = FactorizationMachine<ModelRules>;
    const auto line = model_table("a", 2, 1), factor = model_table("a", 2, 4);
    CHECK_THROWS_WITH_AS(Model({model_table("a", 2, 3)}, {factor}), "FactorizationMachine: linear table 'a' has 3 columns; it must have 1",
                         ConfigError);
    CHECK_THROWS_WITH_AS(Model({line}, {}), "FactorizationMachine: no factor tables", ConfigError);
    CHECK_THROWS_WITH_AS(Model({line}, {factor, model_table("b", 2, 5)}),
                         "FactorizationMachine: factor table 'b' has 5 columns and another has 4", ConfigError);
  }
}

}  // namespace rookery
