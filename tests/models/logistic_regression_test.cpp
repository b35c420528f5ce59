// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/models/logistic_regression.hpp>
#include <rookery/models/logits.hpp>

#include <ATen/ops/tensor.h>

#include <rookery/embedding/assign.hpp>

#include "models/small.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("models/logistic_regression") {
  TEST_CASE("logits are the bias and one weight an id") {
    LogisticRegression<ModelRules> model({model_table("a", 3, 1), model_table("b", 2, 1)});
    assign(model, "tables.embedding_bags.a.weight", at::tensor({1., 2., 4.}).view({3, 1}));
    assign(model, "tables.embedding_bags.b.weight", at::tensor({8., 16.}).view({2, 1}));
    assign(model, "bias", at::tensor({.5}));
    const auto logits = logits_of(std::move(model), {.ids = bags({"a", "b"}, {{{0, 2}, {}, {1, 1}}, {{1}, {}, {0}}})});
    CHECK(logits[0].item<double>() == 21.5);
    CHECK(logits[1].item<double>() == .5);
    CHECK(logits[2].item<double>() == 12.5);
  }

  TEST_CASE("it learns which ids are liked") {
    const ModelBatch batch{.labels = at::tensor({1., 0., 1.}), .ids = bags({"a"}, {{{0}, {1}, {2}}})};
    auto table = model_table("a", 3, 1);
    table.optimizer = RowwiseAdagrad{.learning_rate = .5};
    const auto [first, last] = loss_before_and_after(LogisticRegression<ModelRules>({table}), batch);
    CHECK(last < .5 * first);
  }

  TEST_CASE("a table of more than one column is refused") {
    CHECK_THROWS_WITH_AS(LogisticRegression<ModelRules>({model_table("a", 3, 2)}),
                         "LogisticRegression: table 'a' has 2 columns; it must have 1", ConfigError);
  }
}

}  // namespace rookery
