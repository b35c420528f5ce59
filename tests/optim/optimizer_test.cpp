// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/optim/optimizer.hpp>

#include <ATen/ops/equal.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "optim/driven.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinite = std::numeric_limits<double>::infinity();

bool close(const at::Tensor& found, const std::vector<double>& wanted, double tolerance = 1e-6) {
  return found.detach().reshape({-1}).sub(numbers(wanted)).abs().max().item<double>() <= tolerance;
}
template <class Model> at::Tensor a_of(Model& model) { return model.model().a.tensor().detach(); }
template <class Model> at::Tensor b_of(Model& model) { return model.model().b.tensor().detach(); }

/// All weights and optimizer state, copied.
template <class Model, class Step> std::vector<at::Tensor> everything(Model& model, const Step& step) {
  std::vector<at::Tensor> found{gather_table(model, "t")};
  for (const auto* slot : {"exp_avg", "exp_avg_sq"}) found.push_back(gather_state(model, "t", slot));
  for (const auto& one : step.dense().parameters()) {
    found.push_back(one.parameter->tensor().detach().clone());
    for (const auto& state : one.state) found.push_back(state.clone());
  }
  return found;
}
bool same(const std::vector<at::Tensor>& one, const std::vector<at::Tensor>& other) {
  for (std::size_t i = 0; i < one.size(); ++i)
    if (!at::equal(one[i], other[i])) return false;
  return one.size() == other.size();
}

}  // namespace

TEST_SUITE("optim/optimizer") {
  TEST_CASE("A38 clipping by norm") {
    on_every_topology([](auto& topology) {
      const auto step_of = [&](const Push& push, double clip_norm) {
        auto model = placed(driven(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1}, {.clip_norm = clip_norm});
        model(on_last_rank(topology, push)).loss.backward();
        CHECK(step());
        return std::tuple(a_of(model).clone(), b_of(model).clone(), gather_table(model, "t"), step.gradient_norm());
      };
      {
        const auto [a, b, table, norm] = step_of({.a = numbers({2, 4})}, 1);
        CHECK(close(a, {-.4472136, -.8944272}));
        CHECK(close(a, {-2 / (std::sqrt(20.0) + 1e-6), -4 / (std::sqrt(20.0) + 1e-6)}, 1e-15));
        CHECK(std::abs(norm - std::sqrt(20.0)) < 1e-14);
      }
      {
        const auto [a, b, table, norm] = step_of({.a = numbers({2, 4}), .b = numbers({4, 8})}, 2);
        CHECK(close(a, {-.4, -.8}));
        CHECK(close(b, {-.8, -1.6}));
        CHECK(norm == 10);
      }
      {
        const auto [a, b, table, norm] = step_of({.a = numbers({.5, .5})}, 1);
        CHECK(close(a, {-.5, -.5}, 0));
      }
      {  // a parameter and a row; the row is hit twice, and what counts is the sum
        const auto [a, b, table, norm] = step_of({.a = numbers({2, 4}), .ids = {2, 2}, .rows = numbers({1, 3, 3, 5}).view({2, 2})}, 2);
        CHECK(close(a, {-.4, -.8}));
        CHECK(close(table, {0, 0, 0, 0, -.8, -1.6}));
        CHECK(norm == 10);
      }
      {  // rows of different ranks
        const auto [a, b, table, norm] = step_of({.ids = {0, 2}, .rows = numbers({2, 4, 4, 8}).view({2, 2})}, 2);
        CHECK(close(table, {-.4, -.8, 0, 0, -.8, -1.6}));
      }
      {  // the norm is that of the divided gradient
        const auto [a, b, table, norm] = step_of({.a = numbers({20, 40}), .divisor = 10}, 1);
        CHECK(close(a, {-.4472136, -.8944272}));
      }
    });
  }

  TEST_CASE("4.2 gradient accumulation") {
    on_every_topology([](auto& topology) {
      for (const std::int64_t k : {1, 2, 3, 4}) {
        auto model = placed(driven(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1});
        std::vector<double> moves;
        double before = 0;
        for (int i = 0; i < 12; ++i) {                         // loss w * 2^i, each pass a batch of one row
          model(on_last_rank(topology, {.a = numbers({std::pow(2.0, i), 0})})).loss.backward();
          if ((i + 1) % k != 0) continue;
          step();
          moves.push_back(a_of(model)[0].template item<double>() - before);
          before += moves.back();
        }
        std::vector<double> wanted;
        for (std::int64_t first = 0; first < 12; first += k) {
          wanted.push_back(0);
          for (auto i = first; i < first + k; ++i) wanted.back() -= std::pow(2.0, i) / static_cast<double>(k);
        }
        CHECK(close(numbers(moves), wanted, 1e-11));
        if (k == 2) CHECK(close(numbers({moves[0], moves[1], moves[2]}), {-3. / 2, -12. / 2, -48. / 2}, 1e-11));
        if (k == 4) CHECK(std::abs(moves[0] + (1 + 2 + 4 + 8) / 4.0) < 1e-11);
      }
    });
  }

  TEST_CASE("4.2 Adam, unit gradients: neither its state, which is there before the first step, nor prediction counts as a step") {
    on_every_topology([](auto& topology) {
      const Adam adam{.learning_rate = 1, .beta1 = .95, .beta2 = .999, .eps = 1e-7};
      auto model = placed(driven(adam), topology);
      Optimizer step(model, adam);
      CHECK(gather_state(model, "t", "exp_avg").abs().max().template item<double>() == 0);
      for (int i = 1; i <= 3; ++i) {
        for (int j = 0; j < i; ++j) model.predict({.ids = {1}});
        model(on_last_rank(topology, {.a = numbers({1, 1}), .ids = {1}, .rows = numbers({1, 1}).view({1, 2})})).loss.backward();
        step();
        CHECK(close(a_of(model), {-1. * i, -1. * i}, 1e-5));
        CHECK(close(gather_table(model, "t")[1], {-1. * i, -1. * i}, 1e-5));
      }
    });
  }

  TEST_CASE("a gradient that is not finite: error names the first and changes nothing") {
    struct Bad {
      Push push;
      std::string named;
    };
    const std::vector<Bad> cases{
        {{.a = numbers({1, 1}), .b = numbers({1, nan}), .ids = {1}, .rows = numbers({1, 1}).view({1, 2})}, "the gradient of 'b'"},
        {{.a = numbers({1, 1}), .b = numbers({1, -infinite}), .ids = {1}, .rows = numbers({1, infinite}).view({1, 2})},
         "the gradient of 'b'"},
        {{.a = numbers({1, 1}), .b = numbers({1, 1}), .ids = {1}, .rows = numbers({nan, 1}).view({1, 2})},
         "the gradient of 'item.embedding_bags.t.weight'"},
        {{.ids = {0, 2}, .rows = numbers({1, 1, 1, infinite}).view({2, 2})}, "the gradient of 'item.embedding_bags.t.weight'"},
        {{.a = numbers({1, 1}), .divisor = nan}, "the loss's normaliser"}};
    const Push good{.a = numbers({1, 2}), .b = numbers({3, 4}), .ids = {0, 1, 2}, .rows = numbers({1, 2, 3, 4, 5, 6}).view({3, 2})};
    for (const auto& bad : cases)
      on_every_topology([&](auto& topology) {
        auto model = placed(driven(Adam{}), topology);
        Optimizer step(model, Adam{}, {.clip_norm = 1});
        model(on_last_rank(topology, good)).loss.backward();
        step();
        const auto before = everything(model, step);
        model(on_last_rank(topology, bad.push)).loss.backward();
        std::string said;
        try {
          step();
        } catch (const NonFiniteError& error) {
          said = error.what();
        }
        CHECK(said.find("step 2: " + bad.named) == 0);
        CHECK(said.find("no weight was changed") != std::string::npos);
        const auto blamed = concat(" because of ranks [", topology.world_size() - 1, "]");     // on one process there is none to tell apart
        CHECK((said.find(blamed) != std::string::npos) == (topology.world_size() > 1));
        CHECK(same(before, everything(model, step)));
        CHECK(step.count() == 1);
        model(on_last_rank(topology, good)).loss.backward();   // and what was bad is forgotten
        CHECK(step());
        CHECK(!same(before, everything(model, step)));
      });
  }

  TEST_CASE("a gradient that is not finite: skip counts, and the steps around it are those without it") {
    const Push good{.a = numbers({1, 2}), .ids = {0, 2}, .rows = numbers({1, 2, 3, 4}).view({2, 2})};
    on_every_topology([&](auto& topology) {
      const auto run = [&](bool with_bad_steps) {
        auto model = placed(driven(Adam{}), topology);
        Optimizer step(model, Adam{}, {.non_finite = NonFinite::skip});
        for (int i = 0; i < 3; ++i) {
          if (with_bad_steps) {
            model(on_last_rank(topology, good)).loss.backward();      // a good pass beside a bad one is lost with it
            model(on_last_rank(topology, {.a = numbers({nan, 0})})).loss.backward();
            CHECK(!step());
          }
          model(on_last_rank(topology, good)).loss.backward();
          CHECK(step());
        }
        CHECK(step.count() == 3);
        CHECK(step.skipped() == (with_bad_steps ? 3 : 0));
        return everything(model, step);
      };
      CHECK(same(run(false), run(true)));
    });
  }

  TEST_CASE("a step needs a forward pass in training") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(), topology);
      Optimizer step(model, Sgd{});
      CHECK_THROWS_WITH_AS(step(), "Optimizer: step() without a forward pass in training since the last one", Error);
      model.predict({.ids = {1}});
      CHECK_THROWS_AS(step(), Error);
      model({.ids = {1}, .rows = numbers({1, 1}).view({1, 2})}).loss.backward();
      CHECK(step());
      CHECK_THROWS_AS(step(), Error);
    });
  }

  TEST_CASE("clear forgets passes and gradients") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(), topology);
      Optimizer step(model, Sgd{.learning_rate = 1});
      model(on_last_rank(topology, {.a = numbers({100, 100}), .ids = {0}, .rows = numbers({100, 100}).view({1, 2})})).loss.backward();
      step.clear();
      CHECK_THROWS_AS(step(), Error);
      model(on_last_rank(topology, {.a = numbers({1, 2}), .ids = {1}, .rows = numbers({3, 4}).view({1, 2})})).loss.backward();
      step();
      CHECK(close(a_of(model), {-1, -2}, 0));
      CHECK(close(gather_table(model, "t"), {0, 0, -3, -4, 0, 0}, 0));
    });
  }

  TEST_CASE("a parameter that no loss reaches is untouched, its state and its step count too") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(Adam{}), topology);
      Optimizer step(model, Adam{.learning_rate = .1});
      model(on_last_rank(topology, {.a = numbers({1, 2}), .b = numbers({1, 2})})).loss.backward();
      step();
      const auto before = everything(model, step);
      for (int i = 0; i < 3; ++i) {
        model(on_last_rank(topology, {.a = numbers({0, 0}), .ids = {1}})).loss.backward();
        step();
      }
      const auto after = everything(model, step);              // table, its two moments, then a and b with two moments each
      for (const std::size_t i : {0, 1, 2, 6, 7, 8}) CHECK(at::equal(before[i], after[i]));
      CHECK(!at::equal(before[3], after[3]));                  // a gradient of zeros reaches: momentum moves it on
      CHECK(step.dense().parameters()[0].steps == 4);
      CHECK(step.dense().parameters()[1].steps == 1);
    });
  }

  TEST_CASE("rows that are looked up and not reached are untouched") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(Adam{}), topology);
      Optimizer step(model, Adam{});
      model(on_last_rank(topology, {.ids = {0, 1}, .rows = numbers({1, 1, 1, 1}).view({2, 2})})).loss.backward();
      step();
      const auto before = everything(model, step);
      model(on_last_rank(topology, {.a = numbers({1, 1}), .ids = {1, 2}})).loss.backward();
      step();
      const auto after = everything(model, step);
      for (const std::size_t i : {0, 1, 2}) CHECK(at::equal(before[i], after[i]));
      CHECK(step.count() == 2);
    });
  }

  TEST_CASE("a normaliser of zero gives gradients of zero; a negative one is an error") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(), topology);
      Optimizer step(model, Sgd{.learning_rate = 1});
      const Push push{.a = numbers({1, 2}), .ids = {1}, .rows = numbers({3, 4}).view({1, 2}), .divisor = 0};
      model(on_last_rank(topology, push)).loss.backward();
      CHECK(step());
      CHECK(step.gradient_norm() == 0);
      CHECK(close(a_of(model), {0, 0}, 0));
      CHECK(close(gather_table(model, "t"), {0, 0, 0, 0, 0, 0}, 0));
      auto negative = push;
      negative.divisor = -2;
      model(on_last_rank(topology, negative)).loss.backward();
      CHECK_THROWS_WITH_AS(step(), "step 2: the loss's normaliser, summed over ranks, is -2; no weight was changed", NonFiniteError);
      CHECK(close(a_of(model), {0, 0}, 0));
    });
  }

  TEST_CASE("the divisor is the sum over ranks and passes") {
    Threads::run(2, [](Threads topology) {
      auto model = placed(driven(), topology);
      Optimizer step(model, Sgd{.learning_rate = 1});
      const bool first = topology.rank() == 0;
      model({.a = first ? numbers({1, 0}) : numbers({0, 2}), .divisor = first ? 3. : 1.}).loss.backward();
      model({.a = first ? numbers({4, 0}) : numbers({0, 8}), .divisor = first ? 1. : 5.}).loss.backward();
      step();
      CHECK(close(a_of(model), {-.5, -1}, 0));
    });
  }

  TEST_CASE("a second backward of one pass adds up, tables as dense parameters") {
    Local topology;
    auto model = placed(driven(), topology);
    Optimizer step(model, Sgd{.learning_rate = 1});
    auto loss = model({.a = numbers({1, 2}), .ids = {1}, .rows = numbers({3, 4}).view({1, 2})}).loss;
    loss.backward({}, /*retain_graph=*/true);
    loss.backward();
    step();
    CHECK(close(a_of(model), {-2, -4}, 0));
    CHECK(close(gather_table(model, "t")[1], {-6, -8}, 0));
  }

  TEST_CASE("a placed collection alone can be stepped") {
    on_every_topology([](auto& topology) {
      EmbeddingBagCollection<DrivenRules> tables{{.name = "t",
                                                  .num_embeddings = 3,
                                                  .embedding_dim = 2,
                                                  .data_type = at::kDouble,
                                                  .initial = Zeros{},
                                                  .optimizer = Sgd{.learning_rate = 1}}};
      auto model = placed(std::move(tables), topology);
      Optimizer step(model, Sgd{});
      const auto features = KeyedJaggedTensor::from_lengths({"t"}, at::tensor({0, 2, 2}, at::kLong), at::tensor({1, 2}, at::kLong));
      model(features).values().sum().backward();
      step();
      CHECK(close(gather_table(model, "t").div(topology.world_size()), {-1, -1, 0, 0, -2, -2}, 0));
    });
  }

  TEST_CASE("a step without a backward pass is refused and loses nothing") {
    Local topology;
    auto model = placed(driven(), topology);
    Optimizer step(model, Sgd{.learning_rate = 1});
    auto loss = model({.a = numbers({1, 2})}).loss;
    CHECK_THROWS_WITH_AS(
        step(),
        "Optimizer: step() without backward() from the loss of a forward pass since the last one (1 of these); call loss.backward() first",
        Error);
    loss.backward();
    CHECK(step());
    CHECK(close(a_of(model), {-1, -2}, 0));

    EmbeddingBagCollection<DrivenRules> tables{{.name = "t", .num_embeddings = 3, .embedding_dim = 2}};
    auto alone = placed(std::move(tables), topology);
    Optimizer step_alone(alone, Sgd{});
    alone(KeyedJaggedTensor::from_lengths({"t"}, at::tensor({0}, at::kLong), at::tensor({1}, at::kLong)));
    CHECK_THROWS_WITH_AS(step_alone(), "Optimizer: step() without backward() from any rank's forward pass since the last one", Error);
  }

  TEST_CASE("a backward pass that one rank forgot ends all ranks, and the error names the rank") {
    std::string message;
    try {
      Threads::run(2, [](Threads topology) {
        auto model = placed(driven(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1});
        auto loss = model({.a = numbers({1, 2})}).loss;
        if (topology.rank() == 0) loss.backward();
        step();
      });
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK(message.starts_with("rank 1, step 1"));
    CHECK(message.find("Optimizer: step() without backward() from the loss of a forward pass") != std::string::npos);
  }

  TEST_CASE("ranks that were told different things are refused") {
    const auto run = [](auto difference) {
      try {
        Threads::run(3, [&](Threads topology) {
          const bool odd = topology.rank() == 2;
          const bool rule = odd && difference == 0, clip = odd && difference == 1, policy = odd && difference == 2;
          auto model = placed(driven(), topology);
          Optimizer step(model, Adam{.beta2 = rule ? .99 : .999},
                         {.clip_norm = clip ? 2. : 1, .non_finite = policy ? NonFinite::skip : NonFinite::error});
          if (odd) step.set_learning_rate_factor(.5);
          model({.a = numbers({1, 2})}).loss.backward();
          step();
        });
      } catch (const ConfigError& error) {
        return std::string(error.what());
      }
      return std::string();
    };
    CHECK(run(0).ends_with("Optimizer: ranks differ: rank 0 has 'dense parameters: adam with learning_rate 0.001, beta1 0.9, beta2 0.999, "
                           "eps 1e-08, weight_decay 0' and rank 2 has 'dense parameters: adam with learning_rate 0.001, beta1 0.9, "
                           "beta2 0.99, eps 1e-08, weight_decay 0'"));
    CHECK(run(1).find("Optimizer: ranks differ: rank 0 has 'clip_norm 1' and rank 2 has 'clip_norm 2'") != std::string::npos);
    CHECK(run(2).find("rank 0 has 'non_finite error' and rank 2 has 'non_finite skip'") != std::string::npos);
    CHECK(run(3).ends_with(
        "Optimizer: step 1: ranks differ: rank 0 has 'learning rate factor 1' and rank 2 has 'learning rate factor 0.5'"));
  }

  TEST_CASE("options that mean nothing are refused") {
    Local topology;
    auto model = placed(driven(), topology);
    CHECK_THROWS_WITH_AS(Optimizer(model, Sgd{}, {.clip_norm = -1}), "Optimizer: clip_norm is -1; it must not be negative", ConfigError);
    CHECK_THROWS_AS(Optimizer(model, Sgd{}, {.clip_norm = nan}), ConfigError);
    CHECK_THROWS_WITH_AS(Optimizer(model, Adam{.learning_rate = -1}),
                         "Optimizer: adam has learning_rate -1; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(Optimizer(model, Adam{.beta2 = 1}), "Optimizer: adam has beta2 1; it must lie in [0, 1)", ConfigError);
    CHECK_THROWS_WITH_AS(driven(RowwiseAdagrad{.learning_rate = nan}),
                         "EmbeddingBagCollection: table 't': rowwise_adagrad has learning_rate nan; it must be finite and not negative",
                         ConfigError);
  }
}

}  // namespace rookery
