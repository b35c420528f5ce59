// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/models/dlrm.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/normal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/uniform.h>

#include <cmath>
#include <string>
#include <vector>

#include <rookery/embedding/assign.hpp>

#include "models/small.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("models/dlrm") {
  TEST_CASE("A64 DLRM interaction: dense beside the upper triangle of pairwise dots") {
    auto generator = at::detail::createCPUGenerator(0);
    const auto dense = at::randint(0, 10, {6, 3}, generator, at::kFloat);                    // [B, D]
    const auto sparse = at::randint(0, 10, {6, 2, 3}, generator, at::kFloat);                // [B, F, D]
    const auto found = at::cat({dense, dot_interaction(at::cat({dense.unsqueeze(1), sparse}, 1))}, 1);   // [B, D + 3]
    const auto wanted = at::tensor({4., 9., 3., 61., 57., 63., 0., 3., 9., 84.,  27.,  45., 7., 3., 7., 34., 50., 25.,
                                    3., 1., 6., 21., 50., 91., 6., 9., 8., 125., 109., 74., 6., 6., 8., 18., 80., 21.},
                                   at::kFloat)
                            .view({6, 6});
    CHECK(at::equal(found, wanted));
  }

  TEST_CASE("A65 whole DLRM, drawn by torch's generator") {
    auto generator = at::detail::createCPUGenerator(0);
    Dlrm<ModelRules> model({model_table("t1", 100, 8, {"f1", "f3"}), model_table("t2", 100, 8, {"f2"})}, 100, {20, 8}, {5, 1});
    std::vector<at::Tensor> tables{at::empty({100, 8}), at::empty({100, 8})};
    for (auto& table : tables) table.normal_(0, 1, generator);
    for (auto& table : tables) table.uniform_(-.1, .1, generator);                           // 1 / sqrt(100)
    assign(model, "tables.embedding_bags.t1.weight", tables[0]);
    assign(model, "tables.embedding_bags.t2.weight", tables[1]);
    const auto draw = [&](const std::string& layer, std::int64_t out, std::int64_t in) {
      const double bound = 1 / std::sqrt(static_cast<double>(in));
      assign(model, layer + ".weight", at::empty({out, in}).uniform_(-bound, bound, generator));
      assign(model, layer + ".bias", at::empty({out}).uniform_(-bound, bound, generator));
    };
    draw("bottom.layers.0", 20, 100);
    draw("bottom.layers.1", 8, 20);
    draw("over.layers.0", 5, 14);                              // 8 dense and 6 pairs of 4 vectors
    draw("over.layers.1", 1, 5);
    const ModelBatch batch{.dense = at::rand({2, 100}, generator, at::kFloat),
                           .ids = bags({"f1", "f3", "f2"}, {{{1, 2}, {4, 5}}, {{4, 3}, {2, 9}}, {{1, 2}, {3}}})};
    const auto logits = logits_of(std::move(model), batch);
    CHECK(std::abs(logits[0].item<double>() + .2593) < 1e-4);
    CHECK(std::abs(logits[1].item<double>() + .2487) < 1e-4);
  }

  TEST_CASE("without dense features the logit comes from the pairs of tables") {
    Dlrm<ModelRules> model({model_table("a", 3, 2), model_table("b", 3, 2)}, 0, {}, {1});
    assign(model, "tables.embedding_bags.a.weight", at::tensor({1., 2., 3., 4., 5., 6.}).view({3, 2}));
    assign(model, "tables.embedding_bags.b.weight", at::tensor({1., 1., 2., 0., 0., 3.}).view({3, 2}));
    assign(model, "over.layers.0.weight", at::ones({1, 1}));
    assign(model, "over.layers.0.bias", at::tensor({.5}));
    const auto logits = logits_of(std::move(model), {.ids = bags({"a", "b"}, {{{0}, {1, 2}}, {{1}, {2}}})});
    CHECK(logits[0].item<double>() == 2.5);                    // (1, 2) . (2, 0)
    CHECK(logits[1].item<double>() == 30.5);                   // (8, 10) . (0, 3)
  }

  TEST_CASE("a batch without rows has no logits") {
    Dlrm<ModelRules> model({model_table("a", 3, 2)}, 4, {2}, {1});
    const auto logits = logits_of(std::move(model), {.dense = at::ones({0, 4}), .ids = bags({"a"}, {{}})});
    CHECK(logits.sizes() == at::IntArrayRef({0}));
  }

  TEST_CASE("it learns one batch by heart, in float32 and float64") {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      auto a = model_table("a", 4, 4), b = model_table("b", 4, 4);
      a.data_type = b.data_type = dtype;
      const ModelBatch batch{.dense = at::ones({4, 2}, dtype),
                             .labels = at::tensor({1., 0., 0., 1.}),
                             .ids = bags({"a", "b"}, {{{0}, {1}, {2}, {3}}, {{3}, {2}, {1}, {0}}})};
      const auto [first, last] = loss_before_and_after(Dlrm<ModelRules>({a, b}, 2, {8, 4}, {8, 1}, dtype), batch);
      CHECK(last < .2 * first);
    }
  }

  TEST_CASE("widths that do not meet are refused in one sentence") {
    using Model = Dlrm<ModelRules>;
    const auto a = model_table("a", 3, 2), wide = model_table("wide", 3, 5);
    CHECK_THROWS_WITH_AS(Model({a, wide}, 4, {2}, {1}),
                         "Dlrm: table 'wide' is 5 wide and table 'a' 2; all vectors meet in dot products and share one width", ConfigError);
    CHECK_THROWS_WITH_AS(Model({a}, 4, {8, 3}, {1}), "Dlrm: the bottom ends 3 wide and the tables are 2 wide", ConfigError);
    CHECK_THROWS_WITH_AS(Model({a}, 4, {}, {1}), "Dlrm: the bottom ends 0 wide and the tables are 2 wide", ConfigError);
    CHECK_THROWS_WITH_AS(Model({a}, 4, {2}, {8, 2}), "Dlrm: the over layers must end with one logit", ConfigError);
    CHECK_THROWS_WITH_AS(Model({}, 4, {2}, {1}), "Dlrm: no tables", ConfigError);
  }
}

}  // namespace rookery
