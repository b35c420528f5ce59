// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/optim/dense_state.hpp>

#include <rookery/optim/step_norm.hpp>

#include <ATen/ops/equal.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <rookery/loss/callable.hpp>

#include "optim/driven.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// Two parts whose parameter has the same name.
struct Part {
  Parameter x{{2}, Zeros{}, 0, at::kDouble};
  static constexpr auto members() { return rookery::members("x", &Part::x); }
};
struct TwoParts {
  Part a, b;
  static constexpr auto members() { return rookery::members("a", &TwoParts::a, "b", &TwoParts::b); }
  struct Output {
    at::Tensor a, b;
  };
  template <class Batch> Output forward(const Batch&) { return {a.x.tensor(), b.x.tensor()}; }
};
struct Pushes {
  at::Tensor a, b;
  std::int64_t size() const { return 1; }
};
struct Product {
  at::Tensor operator()(const TwoParts::Output& output, const Pushes& push) const {
    const auto of_a = output.a.mul(push.a).sum();  // []
    return push.b.defined() ? of_a.add(output.b.mul(push.b).sum()) : of_a;
  }
};
/// Parameters that are named when the program runs, and one whose name reads like one of theirs.
struct NamedParts {
  std::vector<Named<Parameter>> parts;
  Parameter other{{2}, Zeros{}, 0, at::kDouble};
  static constexpr auto members() { return rookery::members("parts", &NamedParts::parts, "parts.c", &NamedParts::other); }
  template <class Batch> TwoParts::Output forward(const Batch&) { return {parts[0].value.tensor(), other.tensor()}; }
};
/// Buffers that are named when the program runs, beside a parameter.
struct NamedBuffers {
  std::vector<Named<Buffer>> buffers;
  Parameter weight{{2}, Zeros{}, 0, at::kDouble};
  static constexpr auto members() { return rookery::members("", &NamedBuffers::buffers, "weight", &NamedBuffers::weight); }
  template <class Batch> TwoParts::Output forward(const Batch&) { return {weight.tensor(), weight.tensor()}; }
};
/// Tables whose names read like those of a part's.
struct Tower {
  EmbeddingBagCollection<Rules<Sgd>> tables;
  static constexpr auto members() { return rookery::members("tables", &Tower::tables); }
};
struct TwoTables {
  EmbeddingBagCollection<Rules<Sgd>> tables;
  Tower item;
  static constexpr auto members() { return rookery::members("item.tables", &TwoTables::tables, "item", &TwoTables::item); }
  auto lookups(const Pushes&) const {
    return rookery::lookups(rookery::lookup<&TwoTables::tables>({}), rookery::lookup<&TwoTables::item, &Tower::tables>({}));
  }
  TwoParts::Output forward(const Pushes& push, const auto&) { return {push.a, push.b}; }
};
using TwoPartsAndLoss = ModelAndLoss<TwoParts, SumLoss<Product>, Pushes>;

}  // namespace

TEST_SUITE("optim/dense_state") {
  TEST_CASE("A40 state is named by the parts of the model, and loading refuses a missing or extra key") {
    Local topology;
    auto model = maybe_shard_model(TwoPartsAndLoss{{}, sum_loss(Product{})}, topology);
    Optimizer step(model, Adam{.learning_rate = .1});
    for (int i = 0; i < 3; ++i) {
      model({numbers({1, 2}), i == 0 ? numbers({3, 4}) : at::Tensor{}}).loss.backward();
      step();
    }
    const auto state = dense_state(step);
    std::vector<std::string> keys;
    for (const auto& [key, tensor] : state) keys.push_back(key);
    CHECK(keys == std::vector<std::string>{"a.x.exp_avg", "a.x.exp_avg_sq", "a.x.step", "b.x.exp_avg", "b.x.exp_avg_sq", "b.x.step"});
    CHECK(state.at("a.x.step").item<std::int64_t>() == 3);
    CHECK(state.at("b.x.step").item<std::int64_t>() == 1);

    auto missing = state;
    missing.erase("b.x.exp_avg");
    CHECK_THROWS_WITH_AS(load_dense_state(step, missing), "load_dense_state: no entry 'b.x.exp_avg'", IndexError);
    auto extra = state;
    extra["c.x.exp_avg"] = numbers({1, 2});
    CHECK_THROWS_WITH_AS(load_dense_state(step, extra), "load_dense_state: entry 'c.x.exp_avg' belongs to no parameter and slot",
                         IndexError);
    auto odd = state;
    odd["a.x.exp_avg"] = numbers({1, 2, 3});
    CHECK_THROWS_WITH_AS(load_dense_state(step, odd), "load_dense_state: entry 'a.x.exp_avg' has shape [3]; its place has [2]", ShapeError);
    for (const double steps : {-5., 2.5, 1e300, std::nan("")}) {
      auto wrong = state;
      wrong["a.x.step"] = numbers({steps})[0];
      CHECK_THROWS_WITH_AS(load_dense_state(step, wrong),
                           doctest::Contains("; it must be a whole number of steps, not negative"), DataError);
    }
    const auto after = dense_state(step);
    for (const auto& [key, tensor] : state) CHECK(at::equal(tensor, after.at(key)));
  }

  TEST_CASE("A40 two parameters of one full name are refused, however they came by it") {
    Local topology;
    const auto refusal = [&](const std::string& first, const std::string& second) -> std::string {
      const Parameter zeros{{2}, Zeros{}, 0, at::kDouble};
      try {
        auto model = maybe_shard_model(
            ModelAndLoss<NamedParts, SumLoss<Product>, Pushes>{{.parts = {{first, zeros}, {second, zeros}}}, sum_loss(Product{})}, topology);
        Optimizer step(model, Adam{});
        CHECK(dense_state(step).size() == 9);
      } catch (const ConfigError& error) {
        return error.what();
      }
      return "";
    };
    CHECK(refusal("a", "b").empty());
    const auto sentence = [](const std::string& name) {
      return concat("two parameters, buffers or tables of the model are called '", name, "'; give each a name of its own");
    };
    CHECK(refusal("a", "a") == sentence("parts.a"));
    CHECK(refusal("a", "c") == sentence("parts.c"));
  }

  TEST_CASE("two buffers, a buffer and a parameter, and two tables of one full name are refused when the model is placed") {
    Local topology;
    const auto refusal = [&](auto model) -> std::string {
      try {
        maybe_shard_model(ModelAndLoss<decltype(model), SumLoss<Product>, Pushes>{std::move(model), sum_loss(Product{})}, topology);
      } catch (const ConfigError& error) {
        return error.what();
      }
      return "";
    };
    const auto buffers = [](const std::string& first, const std::string& second) {
      return NamedBuffers{.buffers = {{first, Buffer({1})}, {second, Buffer({1})}}};
    };
    CHECK(refusal(buffers("a", "b")).empty());
    CHECK(refusal(buffers("a", "a")).find("are called 'a';") != std::string::npos);
    CHECK(refusal(buffers("a", "weight")).find("are called 'weight';") != std::string::npos);
    const auto tables = [](const std::string& first, const std::string& second) {
      return TwoTables{.tables = {{.name = first, .num_embeddings = 2, .embedding_dim = 1}},
                       .item = {{{.name = second, .num_embeddings = 2, .embedding_dim = 1}}}};
    };
    CHECK(refusal(tables("t", "u")).empty());
    CHECK(refusal(tables("t", "t")).find("are called 'item.tables.embedding_bags.t.weight';") != std::string::npos);
  }

  TEST_CASE("a run that is given weights and state goes on as the one they came from") {
    const auto next = [](auto& model, auto& step) {
      model({numbers({1, -2}), numbers({.5, 4})}).loss.backward();
      step();
    };
    Local topology;
    auto first = maybe_shard_model(TwoPartsAndLoss{{}, sum_loss(Product{})}, topology);
    Optimizer step(first, AdamW{.learning_rate = .1});
    for (int i = 0; i < 5; ++i) next(first, step);
    auto second = maybe_shard_model(TwoPartsAndLoss{{}, sum_loss(Product{})}, topology);
    Optimizer resumed(second, AdamW{.learning_rate = .1});
    second.model().a.x.assign(first.model().a.x.tensor().detach());
    second.model().b.x.assign(first.model().b.x.tensor().detach());
    load_dense_state(resumed, dense_state(step));
    for (int i = 0; i < 3; ++i) {
      next(first, step);
      next(second, resumed);
    }
    CHECK(at::equal(first.model().a.x.tensor(), second.model().a.x.tensor()));
    CHECK(at::equal(first.model().b.x.tensor(), second.model().b.x.tensor()));
  }

  TEST_CASE("A40 every tensor of state has a name of its own, of tables as of parameters, on every rank") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(Adam{}), topology);
      Optimizer step(model, Adam{});
      std::set<std::string> names;
      std::int64_t count = 0, table_rows = 0;
      step.for_each_state([&](const OptimizerState& state) {
        ++count;
        names.insert(concat(state.parameter, "/", state.slot, "/", state.box ? state.box->row_begin : -1));
        if (!state.box) CHECK(state.tensor.size(0) == 2);
        if (state.box && state.slot == "exp_avg") table_rows += state.tensor.size(0);
      });
      CHECK(static_cast<std::int64_t>(names.size()) == count);
      for (const auto* name : {"a/exp_avg/-1", "a/exp_avg_sq/-1", "b/exp_avg/-1", "b/exp_avg_sq/-1"}) CHECK(names.contains(name));
      if (topology.rank() == 0) CHECK(names.contains("item.embedding_bags.t.weight/exp_avg/0"));
      if (topology.world_size() == 1) CHECK(table_rows == 3);
    });
  }
}

TEST_SUITE("optim/clip") {
  TEST_CASE("A38 clipping by value, of dense parameters and rows, by norm first where both are asked for") {
    on_every_topology([](auto& topology) {
      const auto step_of = [&](const Push& push, OptimizerOptions options) {
        auto model = placed(driven(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1}, options);
        model(on_last_rank(topology, push)).loss.backward();
        CHECK(step());
        const auto a = model.model().a.tensor().detach();
        return std::vector<double>{-a[0].template item<double>(), -a[1].template item<double>(),
                                   -gather_table(model, "t")[2][0].template item<double>()};
      };
      CHECK(step_of({.a = numbers({2, 4})}, {.clip_value = 1}) == std::vector<double>{1, 1, 0});
      CHECK(step_of({.a = numbers({.5, -3})}, {.clip_value = 1}) == std::vector<double>{.5, -1, 0});
      // a row hit twice: the sum is clipped, not its parts; the divisor comes first
      const Push twice{.ids = {2, 2}, .rows = numbers({1, 0, 2, 0}).view({2, 2}), .divisor = 2};
      CHECK(step_of(twice, {.clip_value = 1.25})[2] == 1.25);
      CHECK(step_of(twice, {.clip_value = 2})[2] == 1.5);
      const auto both = step_of({.a = numbers({3, 4})}, {.clip_norm = 2.5, .clip_value = 1.75});
      CHECK(std::abs(both[0] - 1.5) < 1e-6);
      CHECK(both[1] == 1.75);
    });
  }
  TEST_CASE("a negative clip_value is refused") {
    Local topology;
    auto model = placed(driven(), topology);
    CHECK_THROWS_WITH_AS(Optimizer(model, Sgd{}, {.clip_value = -1}), "Optimizer: clip_value is -1; it must not be negative", ConfigError);
  }
}

}  // namespace rookery
