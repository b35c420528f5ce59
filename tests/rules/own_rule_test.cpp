// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Rules as docs/concepts.md shows them: they compile, train, and are the same there as here.
#include <rookery/rules/rules.hpp>

#include <ATen/ops/equal.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/rookery.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/topology/threads.hpp>

#include "embedding/one_collection.hpp"
#include "support/test.hpp"

namespace rk = rookery;
namespace cases = rookery::cases;

namespace {

// clang-format off
struct SignSgd {
  double learning_rate = 0.01;
  static constexpr std::string_view name = "sign_sgd";
  static constexpr std::array<rk::StateSlot, 0> state{};       // or {rk::StateSlot{"momentum1", rk::StateShape::element}}
  static constexpr int row_sums = 0;

  template <class Number> void update(const rk::Row<Number>& row, const rk::StepContext& context, const double*) const {
    const auto rate = static_cast<Number>(context.rate * learning_rate);       // context.rate is where a schedule acts
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= row.gradient[i] > 0 ? rate : row.gradient[i] < 0 ? -rate : 0;
  }
};

struct RowwiseRmsProp {
  double learning_rate = 0.01, decay = 0.9, eps = 1e-8;
  static constexpr std::string_view name = "rowwise_rms_prop";
  static constexpr std::array state{rk::StateSlot{"square_avg", rk::StateShape::row}};
  static constexpr int row_sums = 1;

  template <class Number> void sum_row(const rk::Row<Number>& row, const rk::StepContext&, double* sums) const {
    sums[0] = 0;
    for (std::int64_t i = 0; i < row.dim; ++i) sums[0] += double(row.gradient[i]) * double(row.gradient[i]);
  }
  template <class Number> void update(const rk::Row<Number>& row, const rk::StepContext& context, const double* sums) const {
    Number& mean = row.state[0][0];
    mean = static_cast<Number>(decay * double(mean) + (1 - decay) * sums[0] / double(row.full_dim));       // of the whole row
    const auto rate = static_cast<Number>(context.rate * learning_rate / (std::sqrt(double(mean)) + eps));
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= rate * row.gradient[i];
  }
};
// clang-format on

std::string text_of(const std::string& path) {
  std::ifstream file(ROOKERY_SOURCE_DIR + ("/" + path));
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

using OwnRules = rk::Rules<SignSgd, RowwiseRmsProp>;
struct Model {
  rk::EmbeddingBagCollection<OwnRules> tables;
  rk::Parameter scale{{2}, rk::Uniform{1}, 0, at::kDouble};
  static constexpr auto members() { return rk::members("tables", &Model::tables, "scale", &Model::scale); }
  auto lookups(const cases::PooledBatch& batch) const { return rk::lookups(rk::lookup<&Model::tables>(batch.features)); }
  at::Tensor forward(const cases::PooledBatch&, const auto& pooled) {
    return get<&Model::tables>(pooled).values().mul(scale.tensor());                         // [B, 2]
  }
};
/// Half the squared distance of the output from `gradient`.
struct Distance {
  static constexpr bool divides = false;
  at::Tensor operator()(const at::Tensor& output, const cases::PooledBatch& batch) const {
    return output.sub(batch.gradient).square().sum().mul(.5);
  }
};

struct Result {
  double first = 0, last = 0;
  at::Tensor weight, state;
};
/// Fits one row of a table, whose columns may lie on two ranks, and a dense parameter, to a batch.
template <class Topology> Result fit(Topology& topology, const rk::Plan& plan) {
  const cases::PooledBatch batch{cases::features_of({"t"}, {{0}, {1}}), at::tensor({2., -1., -3., 2.}, at::kDouble).view({2, 2})};
  auto model = rk::maybe_shard_model(
      rk::ModelAndLoss<Model, Distance, cases::PooledBatch>{
          {{{.name = "t",
             .num_embeddings = 2,
             .embedding_dim = 2,
             .data_type = at::kDouble,
             .optimizer = RowwiseRmsProp{.learning_rate = .05}}}},
          {}},
      topology, {.plan = plan, .seed = 4});
  rk::Optimizer step(model, SignSgd{.learning_rate = .01});
  const bool mine = topology.rank() == 0;
  Result result;
  for (int i = 0; i < 100; ++i) {
    auto [loss, output] = model(mine ? batch : rk::slice(batch, 0, 0));
    if (i == 0) result.first = loss.template item<double>();
    result.last = loss.template item<double>();
    loss.backward();
    step();
  }
  result.weight = rk::gather_table(model, "t");
  result.state = rk::gather_state(model, "t", "square_avg");
  return result;
}

}  // namespace

TEST_SUITE("rules/own_rule") {
  TEST_CASE("the rules of docs/concepts.md are those of this test") {
    const auto page = text_of("docs/concepts.md"), test = text_of("tests/rules/own_rule_test.cpp");
    auto rest = std::string_view(page).substr(page.find("## Rule"));
    rest = rest.substr(0, rest.find("\n## "));
    int blocks = 0;
    for (std::size_t at = rest.find("```cpp\n"); at != rest.npos; at = rest.find("```cpp\n")) {
      rest.remove_prefix(at + 7);
      CHECK(test.find(rest.substr(0, rest.find("```"))) != std::string::npos);
      rest.remove_prefix(rest.find("```") + 3);
      ++blocks;
    }
    CHECK(blocks == 2);
  }
  TEST_CASE("they train tables and dense parameters, alike where columns lie on two ranks") {
    static_assert(rk::concepts::ElementwiseRule<SignSgd>);
    rk::Local local;
    const auto whole = fit(local, {});
    CHECK(whole.last < .05 * whole.first);
    rk::Threads::run(2, [&](rk::Threads topology) {
      const auto split = fit(topology, {{{"t", {{{0, 2, 0, 1}, 0}, {{0, 2, 1, 2}, 1}}}}});
      CHECK(split.weight.sub(whole.weight).abs().max().item<double>() < 1e-12);
      CHECK(split.state.sub(whole.state).abs().max().item<double>() < 1e-12);
    });
  }
}
