// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Modules that see the whole batch, in models on several ranks: the law that sharded equals local holds for them too.

#include <rookery/core/pass.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rookery/loss/bce.hpp>
#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/dropout.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/sgd.hpp>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Batch {
  at::Tensor dense, labels;                                  // [B, 3], [B]
  KeyedJaggedTensor ids;
  at::Tensor reach;                                          // [B]: 1 where the loss reaches what lies below the norms
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &Batch::dense, "labels", &Batch::labels, "ids", &Batch::ids, "reach", &Batch::reach);
  }
};
struct Output {
  at::Tensor logits;                                         // [B]
};
using TestRules = Rules<Sgd, Adam>;

/// A norm of the input, a norm beside a residual path, one tensor under two norms, two dropouts of which one is called twice.
struct Deep {
  EmbeddingBagCollection<TestRules> tables;
  BatchNorm input{3, {.momentum = .3}, at::kDouble}, first{6, {}, at::kDouble}, second{6, {.affine = false}, at::kDouble};
  Linear below{3 + 4, 6, at::kDouble}, between{6, 6, at::kDouble}, over{6, 1, at::kDouble}, beside{3, 1, at::kDouble};
  Dropout some{.3}, more{.5};
  static constexpr auto members() {
    return rookery::members("tables", &Deep::tables, "input", &Deep::input, "first", &Deep::first, "second", &Deep::second, "below",
                            &Deep::below, "between", &Deep::between, "over", &Deep::over, "beside", &Deep::beside, "some", &Deep::some,
                            "more", &Deep::more);
  }
  auto lookups(const Batch& b) const { return rookery::lookups(rookery::lookup<&Deep::tables>(b.ids)); }
  Output forward(const Batch& b, const auto& pooled) {
    const auto x = below(at::cat({input(b.dense), get<&Deep::tables>(pooled).values()}, 1));   // [B, 6]
    const auto hidden = some(at::relu(first(x).add(x)));                                     // [B, 6]
    const auto twice = more(more(between(hidden))).add(second(x).mul(second(hidden)));       // [B, 6]
    const auto direct = beside(b.dense).squeeze(1);                                          // [B]
    if (b.size() > 0 && b.reach.sum().item<double>() == 0) return {direct};
    return {over(twice).squeeze(1).mul(b.reach).add(direct)};                                // [B]
  }
};

struct Case {
  int ranks, passes;
  bool adam;
  std::vector<std::vector<std::int64_t>> cuts;               // of each pass, [W + 1]
};

Batch draw_batch(std::uint64_t seed, std::int64_t rows) {
  Draw draw(seed);
  return {draw.tensor({rows, 3}).mul(2).add(5), draw.tensor({rows}).gt(0).to(at::kDouble),
          random_features(draw, {"a", "b"}, {9, 5}, rows, {}), at::ones({rows}, at::kDouble)};
}

ModelAndLoss<Deep, Bce, Batch> declared(RuleChoice<TestRules> rule) {
  const auto table = [&](const char* name, std::int64_t rows) {
    return EmbeddingBagConfig<TestRules>{.name = name, .num_embeddings = rows, .embedding_dim = 2, .data_type = at::kDouble,
                                         .optimizer = rule};
  };
  return {{.tables = {{table("a", 9), table("b", 5)}}}, {}};
}

/// The module of docs/concepts.md#module.
struct GlobalShare {
  Pass pass;
  static constexpr auto members() { return rookery::members("pass", &GlobalShare::pass); }
  at::Tensor operator()(const at::Tensor& input) const {
    const auto x = pass.cut(input);                          // [B, D]
    return x.div(pass.sum_over_ranks(x.sum(0)));             // [B, D]
  }
};
struct Shares {
  Linear below{3, 2, at::kDouble};
  GlobalShare share;
  static constexpr auto members() { return rookery::members("below", &Shares::below, "share", &Shares::share); }
  Output forward(const Batch& b) { return {share(below(b.dense)).sum(1).mul(b.dense.select(1, 0))}; }
};

/// Everything that training leaves behind. In pass 2 the loss of rank 0 does not reach the norms, in pass 3 no loss does.
template <class Topology> Tensors train_deep(Topology& topology, const Case& how) {
  Tensors found;
  const auto run = [&](auto rule) {
    const ShardingPolicy<Topology> sharding(topology, {.seed = 11});
    auto model = sharding.apply(declared(rule));
    Optimizer step(model, rule, {.clip_norm = .7});
    for (std::size_t pass = 0; pass < how.cuts.size(); ++pass) {
      const auto& cuts = how.cuts[pass];
      auto whole = draw_batch(pass, cuts.back());
      if (pass == 2) whole.reach.narrow(0, 0, cuts[1]).zero_();
      if (pass == 3) whole.reach.zero_();
      const auto rank = static_cast<std::size_t>(topology.rank());
      const auto batch = Topology::is_distributed ? slice(whole, cuts[rank], cuts[rank + 1]) : whole;
      const auto [loss, output] = model(batch);
      found.emplace_back(concat("logits of pass ", pass), of_all_ranks(topology, output.logits));
      loss.backward();
      if ((static_cast<int>(pass) + 1) % how.passes == 0) step();
    }
    found.emplace_back("predictions", of_all_ranks(topology, model.predict(Topology::is_distributed && topology.rank() > 0
                                                                               ? slice(draw_batch(99, 7), 0, 0)
                                                                               : draw_batch(99, 7))
                                                                 .logits));
    gather_tables(model, found);
    for (const auto& one : step.dense().parameters()) {
      found.emplace_back(one.name, one.parameter->tensor().detach().clone());
      found.emplace_back(one.name + ".steps", at::ones({1}, at::kDouble).mul(one.steps));
    }
    visit_leaves(model.model(), "", [&](std::string_view name, auto& leaf) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(leaf)>, Buffer>) found.emplace_back(name, leaf.tensor().clone());
    });
  };
  if (how.adam) run(Adam{.learning_rate = .01, .eps = 1e-6});
  else run(Sgd{.learning_rate = .1});
  return found;
}

void check_deep(const Case& how) {
  Local local;
  const auto expected = train_deep(local, how);
  Threads::run(how.ranks, [&](Threads topology) {
    const auto found = train_deep(topology, how);
    if (topology.rank() != 0) return;
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO(expected[i].first);
      CHECK(found[i].first == expected[i].first);
      CHECK(difference(found[i].second, expected[i].second) <= tolerance(at::kDouble));
    }
  });
}

}  // namespace

TEST_SUITE("core/pass") {
  TEST_CASE("batch norms and dropouts on several ranks are those of one process on the global batch") {
    check_deep({.ranks = 1, .passes = 1, .adam = true, .cuts = {{0, 8}, {0, 5}, {0, 9}, {0, 4}, {0, 6}}});
    check_deep({.ranks = 2, .passes = 1, .adam = false, .cuts = {{0, 4, 8}, {0, 1, 5}, {0, 6, 9}, {0, 2, 4}, {0, 0, 6}, {0, 6, 6}}});
    check_deep({.ranks = 2, .passes = 1, .adam = true, .cuts = {{0, 4, 8}, {0, 1, 5}, {0, 6, 9}, {0, 2, 4}, {0, 0, 6}, {0, 6, 6}}});
    check_deep({.ranks = 3, .passes = 2, .adam = true,
                .cuts = {{0, 4, 5, 8}, {0, 0, 1, 5}, {0, 6, 7, 9}, {0, 2, 3, 4}, {0, 0, 0, 6}, {0, 1, 1, 1}, {0, 0, 0, 0}, {0, 2, 4, 6}}});
  }

  TEST_CASE("a module of one's own sums over ranks, and its gradient is that of one process") {
    const auto weight_after = [](auto& topology, std::int64_t begin, std::int64_t end) {
      const ShardingPolicy<std::remove_cvref_t<decltype(topology)>> sharding(topology, {.seed = 2});
      auto model = sharding.apply(ModelAndLoss<Shares, Bce, Batch>{});
      Optimizer step(model, Sgd{.learning_rate = .1});
      model(slice(draw_batch(3, 6), begin, end)).loss.backward();
      step();
      return model.model().below.weight.tensor().detach().clone();
    };
    Local local;
    const auto expected = weight_after(local, 0, 6);
    Threads::run(2, [&](Threads topology) {
      const auto found = topology.rank() == 0 ? weight_after(topology, 0, 2) : weight_after(topology, 2, 6);
      CHECK(difference(found, expected) <= tolerance(at::kDouble));
    });
  }

  TEST_CASE("a pass without backward leaves nothing to the next step, and a forgotten one can be made up for") {
    const auto weights_after = [](auto& topology, bool forget) {
      const ShardingPolicy<std::remove_cvref_t<decltype(topology)>> sharding(topology, {.seed = 11});
      auto model = sharding.apply(declared(Sgd{.learning_rate = .1}));
      Optimizer step(model, Sgd{.learning_rate = .1});
      const auto batch = draw_batch(static_cast<std::uint64_t>(topology.rank()), 4);
      const auto loss = model(batch).loss;
      if (forget) {
        CHECK_THROWS_AS(step(), Error);
        model(batch);                                          // its backward never comes
      }
      loss.backward();
      step();
      return model.model().below.weight.tensor().detach().clone();
    };
    Threads::run(2, [&](Threads topology) {
      CHECK(difference(weights_after(topology, true), weights_after(topology, false)) <= tolerance(at::kDouble));
    });
  }

  TEST_CASE("modules train with the model, and do not in predict") {
    const ShardingPolicy<Local> here;
    auto model = here.apply(declared(Sgd{.learning_rate = .1}));
    const auto batch = draw_batch(1, 6);
    const auto calls = [&] { return model.model().some.calls.tensor().item<std::int64_t>(); };
    const auto before = model.predict(batch).logits;
    CHECK(calls() == 0);
    CHECK(model.model().some.pass.is_training());
    CHECK(!at::equal(model(batch).output.logits, before));
    CHECK(calls() == 1);
    model.train(false);
    CHECK(!model.model().some.pass.is_training());
    const auto after = model(batch).output.logits;
    CHECK(!after.requires_grad());
    CHECK(at::equal(after, model.predict(batch).logits));
    CHECK(calls() == 1);
    model.train();
    CHECK(model.model().some.pass.is_training());
    CHECK(model.model().some.pass.key() == random_key(0, "some.pass"));
  }

  TEST_CASE("unconnected, a sum over ranks is what it sums") {
    const Pass pass;
    const auto x = at::ones({3});
    CHECK(pass.sum_over_ranks(x).is_same(x));
    CHECK(pass.cut(x).is_same(x));
    CHECK(pass.first_row(5) == 0);
    CHECK(pass.is_training());
  }
}

}  // namespace rookery
