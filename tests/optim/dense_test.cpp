// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/optim/dense.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <rookery/core/members.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "rules/reference_rules.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

/// Parameters of any shape, dtype and number: none, one number, a matrix.
struct Weights {
  Parameter matrix{{3, 5}, Normal{1}, 0, at::kDouble}, number{{}, Normal{1}, 0, at::kDouble}, narrow{{4}, Normal{1}, 0, at::kFloat},
      none{{0, 3}};
  static constexpr auto members() {
    return rookery::members("matrix", &Weights::matrix, "number", &Weights::number, "narrow", &Weights::narrow, "none", &Weights::none);
  }
  struct Output {
    const Weights* weights;
  };
  template <class Batch> Output forward(const Batch&) { return {this}; }
};

/// What the loss multiplies the parameters with, which is their gradient.
struct Gradients {
  at::Tensor matrix, number, narrow;
  std::int64_t size() const { return 1; }
};
struct Product {
  at::Tensor operator()(const Weights::Output& output, const Gradients& batch) const {
    const auto& w = *output.weights;
    return w.matrix.tensor()
        .mul(batch.matrix)
        .sum()
        .add(w.number.tensor().mul(batch.number))
        .add(w.narrow.tensor().mul(batch.narrow).sum())
        .add(w.none.tensor().sum());  // []
  }
};

Vector numbers_of(const at::Tensor& tensor) {
  const auto values = tensor.detach().to(at::kDouble).contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

template <class Rule, class Topology> void follow_the_formula(Topology& topology, Rule rule) {
  auto model = maybe_shard_model(ModelAndLoss<Weights, SumLoss<Product>, Gradients>{{}, sum_loss(Product{})}, topology, {.seed = 3});
  Optimizer step(model, rule);
  auto& w = model.model();
  std::vector<ReferenceRow> references;
  const std::vector<Parameter*> parameters{&w.matrix, &w.number, &w.narrow};
  for (const auto* parameter : parameters) {
    references.push_back({numbers_of(parameter->tensor()), {}});
    for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
      references.back().state[Rule::state[slot].name] = Vector(references.back().w.size(), initial_state(rule, slot));
  }
  Draw draw(8);
  for (int t = 1; t <= 10; ++t) {
    std::vector<at::Tensor> sums;
    for (const auto* parameter : parameters) sums.push_back(at::zeros_like(parameter->tensor()));
    for (int rank = 0; rank < topology.world_size(); ++rank) {  // every rank draws what all bring
      const Gradients batch{draw.tensor({3, 5}), draw.tensor({}), draw.tensor({4}, at::kFloat)};
      const std::vector<at::Tensor> brought{batch.matrix, batch.number, batch.narrow};
      for (std::size_t p = 0; p < sums.size(); ++p) sums[p] = sums[p].add(brought[p]);
      if (rank == topology.rank()) model(batch).loss.backward();
    }
    step();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      references[p].t = t;
      references[p].step(rule, numbers_of(sums[p]));
      const auto agrees = [&](const at::Tensor& found, const Vector& wanted) {
        CHECK(difference(found.reshape({-1}), at::tensor(wanted, at::kDouble)) <= tolerance(parameters[p]->dtype(), "sgd", t));
      };
      agrees(parameters[p]->tensor(), references[p].w);
      for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
        agrees(step.dense().parameters()[p].state[slot], references[p].state.at(Rule::state[slot].name));
    }
  }
  CHECK(w.none.tensor().numel() == 0);
}

}  // namespace

TEST_SUITE("optim/dense") {
  TEST_CASE("dense rules follow torch's formulas, on every topology") {
    const auto all = [](auto& topology) {
      follow_the_formula(topology, Sgd{.learning_rate = .1});
      follow_the_formula(topology, Sgd{.learning_rate = .1, .weight_decay = .2});
      follow_the_formula(topology, MomentumSgd{.learning_rate = .1});
      follow_the_formula(topology, MomentumSgd{.learning_rate = .1, .momentum = .5, .nesterov = true, .weight_decay = .2});
      follow_the_formula(topology, Adagrad{.learning_rate = .1});
      follow_the_formula(topology, Adagrad{.learning_rate = .1, .eps = 1e-3, .weight_decay = .2, .initial_accumulator_value = .3});
      follow_the_formula(topology, AdamW{.learning_rate = .1, .weight_decay = .2});
      follow_the_formula(topology, Adam{.learning_rate = .1});
      follow_the_formula(topology, Adam{.learning_rate = .01, .beta1 = .5, .beta2 = .9, .eps = 1e-3, .weight_decay = .2});
    };
    Local local;
    all(local);
    for (const int ranks : {1, 2, 4}) Threads::run(ranks, [&](Threads topology) { all(topology); });
  }

  TEST_CASE("weights and state are bit-equal on all ranks") {
    std::vector<at::Tensor> of_rank(3);
    Threads::run(3, [&](Threads topology) {
      auto model = maybe_shard_model(ModelAndLoss<Weights, SumLoss<Product>, Gradients>{{}, sum_loss(Product{})}, topology);
      Optimizer step(model, Adam{});
      Draw draw(static_cast<std::uint64_t>(topology.rank()));
      for (int i = 0; i < 10; ++i) {
        model({draw.tensor({3, 5}), draw.tensor({}), draw.tensor({4}, at::kFloat)}).loss.backward();
        step();
      }
      const auto& matrix = step.dense().parameters()[0];
      of_rank[static_cast<std::size_t>(topology.rank())] =
          at::stack({matrix.parameter->tensor().detach(), matrix.state[0], matrix.state[1]});
    });
    CHECK(at::equal(of_rank[0], of_rank[1]));
    CHECK(at::equal(of_rank[0], of_rank[2]));
  }

  TEST_CASE("a frozen parameter keeps value and state, with weight decay and momentum too, and goes on where it was when it trains again") {
    const auto run = [](auto& topology) {
      auto declared = ModelAndLoss<Weights, SumLoss<Product>, Gradients>{{}, sum_loss(Product{})};
      declared.model.narrow.freeze();  // before placement; the matrix after it
      auto model = maybe_shard_model(std::move(declared), topology);
      Optimizer step(model, AdamW{.learning_rate = .1, .weight_decay = .5});
      Draw draw(1);
      const auto train = [&] {
        model({draw.tensor({3, 5}), draw.tensor({}), draw.tensor({4}, at::kFloat)}).loss.backward();
        step();
      };
      auto& matrix = model.model().matrix;
      const auto& narrow = model.model().narrow;
      const auto start = narrow.tensor().detach().clone();
      train();
      const auto held = matrix.tensor().detach().clone(), moment = step.dense().parameters()[0].state[0].clone();
      matrix.freeze();
      for (int i = 0; i < 2; ++i) train();
      CHECK(at::equal(matrix.tensor(), held));
      CHECK(at::equal(step.dense().parameters()[0].state[0], moment));
      CHECK(step.dense().parameters()[0].steps == 1);
      CHECK(step.dense().parameters()[1].steps == 3);
      CHECK(at::equal(narrow.tensor(), start));
      CHECK(step.dense().parameters()[2].state[0].abs().max().template item<double>() == 0);
      matrix.freeze(false);
      train();
      CHECK(!at::equal(matrix.tensor(), held));
      CHECK(step.dense().parameters()[0].steps == 2);
    };
    Local local;
    run(local);
    Threads::run(2, [&](Threads topology) { run(topology); });
    CHECK_THROWS_AS(Threads::run(2,
                                 [](Threads topology) {
                                   auto declared = ModelAndLoss<Weights, SumLoss<Product>, Gradients>{{}, sum_loss(Product{})};
                                   if (topology.rank() == 1) declared.model.narrow.freeze();
                                   auto model = maybe_shard_model(std::move(declared), topology);
                                   Optimizer step(model, Sgd{});
                                 }),
                    ConfigError);
  }

  TEST_CASE("state starts where the rule says") {
    Local topology;
    auto model = maybe_shard_model(ModelAndLoss<Weights, SumLoss<Product>, Gradients>{{}, sum_loss(Product{})}, topology);
    Optimizer step(model, Adagrad{.initial_accumulator_value = .25});
    for (const auto& one : step.dense().parameters())
      CHECK(at::equal(one.state[0], at::full(one.parameter->shape(), .25, one.parameter->dtype())));
  }

  TEST_CASE("a graph that saved a weight notices its update") {
    Local topology;
    auto model = maybe_shard_model(ModelAndLoss<Weights, SumLoss<Product>, Gradients>{{}, sum_loss(Product{})}, topology);
    Optimizer step(model, Sgd{});
    auto stale = model.model().matrix.tensor().mul(model.model().matrix.tensor()).sum();
    Draw draw(1);
    model({draw.tensor({3, 5}), draw.tensor({}), draw.tensor({4}, at::kFloat)}).loss.backward();
    step();
    CHECK_THROWS(stale.backward());
  }

  TEST_CASE("the sum of squares is exact in float64 and the same for any number of threads") {
    Draw draw(2);
    const auto values = draw.tensor({300'001}, at::kFloat);
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const double one = sum_of_squares(values);
    at::set_num_threads(2);
    CHECK(sum_of_squares(values) == one);
    at::set_num_threads(threads);
    CHECK(std::abs(one - values.to(at::kDouble).square().sum().item<double>()) < 1e-9 * one);
    CHECK(sum_of_squares(at::full({4}, 1e30, at::kFloat)) == doctest::Approx(4e60));
    CHECK(sum_of_squares(at::zeros({0})) == 0);
    CHECK(!std::isfinite(sum_of_squares(at::full({1}, std::numeric_limits<double>::quiet_NaN(), at::kDouble))));
  }
}

}  // namespace rookery
