// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every rule at work on tables: whole, in blocks of rows, with columns split, in both number types.
#include <rookery/rules/rules.hpp>

#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/lars_sgd.hpp>
#include <rookery/rules/max_norm.hpp>
#include <rookery/rules/none.hpp>
#include <rookery/rules/partial_rowwise_adam.hpp>
#include <rookery/rules/probe.hpp>
#include <rookery/rules/row_counted.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/rowwise_adagrad_with_counter.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

using MaxNormRowwise = MaxNorm<RowwiseAdagrad>;
using AllTableRules = Rules<Sgd, MomentumSgd, Adagrad, RowwiseAdagrad, RowwiseAdagradWithCounter, MaxNormRowwise, Adam, AdamW,
                            PartialRowwiseAdam, Lamb, PartialRowwiseLamb, LarsSgd, NoUpdate, RowCounted<Adam>>;
using Choice = RuleChoice<AllTableRules>;
using Tables = EmbeddingBagCollection<AllTableRules>;

/// How a table's rows and columns lie on ranks.
struct Layout {
  std::string text;
  int ranks = 0;  // 0: Local
  std::vector<Shard> shards{};
};

/// Whole; rows apart; columns apart; both.
std::vector<Layout> layouts(std::int64_t rows, std::int64_t dim) {
  return {{"local", 0, table_wise_shards(rows, dim, 0)},
          {"rows", 2, row_wise_shards(rows, dim, 2)},
          {"columns", 2, {{{0, rows, 0, dim / 2}, 0}, {{0, rows, dim / 2, dim}, 1}}},
          {"both", 3, {{{0, rows - 1, 0, dim - 1}, 1}, {{0, rows - 1, dim - 1, dim}, 2}, {{rows - 1, rows, 0, dim}, 0}}}};
}

struct Trained {
  std::vector<at::Tensor> weights;  // before the first step and after each, [E, D]
  std::vector<std::map<std::string, at::Tensor>> state;
};

/// Trains table "t" of `weights` on one batch a step; rank r takes its part of the rows.
Trained train(const Choice& rule, const at::Tensor& weights, const std::vector<PooledBatch>& batches, const Layout& layout) {
  Trained trained;
  const auto body = [&]<class Topology>(Topology& topology) {
    Tables tables({{.name = "t",
                    .num_embeddings = weights.size(0),
                    .embedding_dim = weights.size(1),
                    .data_type = weights.scalar_type(),
                    .optimizer = rule}});
    tables.assign("t", weights);
    auto model = maybe_shard_model(ModelAndLoss<OneCollectionOf<AllTableRules>, SumOfOutputs, PooledBatch>{{std::move(tables)}, {}},
                                   topology, {.plan = {{{"t", layout.shards}}}});
    Optimizer step(model, Sgd{});
    const auto record = [&] {
      std::map<std::string, at::Tensor> state;
      rule.visit([&](const auto& one) {
        for (const auto& slot : one.state) state[std::string(slot.name)] = gather_state(model, "t", slot.name);
      });
      const auto whole = gather_table(model, "t");
      if (topology.rank() != 0) return;
      trained.weights.push_back(whole);
      trained.state.push_back(std::move(state));
    };
    record();
    for (const auto& batch : batches) {
      const auto begin = batch.size() * topology.rank() / topology.world_size();
      const auto end = batch.size() * (topology.rank() + 1) / topology.world_size();
      model(Topology::is_distributed ? slice(batch, begin, end) : batch).loss.backward();
      step();
      record();
    }
  };
  if (layout.ranks == 0) {
    Local local;
    body(local);
  } else {
    Threads::run(layout.ranks, [&](Threads topology) { body(topology); });
  }
  return trained;
}

/// A30 to A33: of three rows the second is hit twice a step, with gradients that add up to [.4, -.2, .1, .8]; the others are not.
void check_both_steps(const Choice& rule, const std::vector<double>& first, const std::vector<double>& second,
                      const std::map<std::string, double>& row_state = {}) {
  for (const auto& layout : layouts(3, 4))
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      CAPTURE(layout.text);
      CAPTURE(rule.name());
      const auto weights = at::tensor({9., 9., 9., 9., 1., 2., 3., 4., 5., 6., 7., 8.}, at::kDouble).view({3, 4}).to(dtype);
      const auto gradient = at::tensor({.3, -.3, 0., .5, .1, .1, .1, .3}, at::kDouble).view({2, 4}).to(dtype);
      const PooledBatch batch{features_of({"t"}, {{1}, {1}}), gradient};
      const auto trained = train(rule, weights, {batch, batch}, layout);
      const double within = dtype == at::kDouble ? 1e-6 : 1e-4;
      const auto near = [&](const at::Tensor& found, const std::vector<double>& wanted) {
        CAPTURE(found);
        CHECK(found.to(at::kDouble).sub(at::tensor(wanted, at::kDouble)).abs().max().item<double>() <= within);
      };
      near(trained.weights[1][1], first);
      near(trained.weights[2][1], second);
      for (const std::int64_t row : {0, 2}) CHECK(at::equal(trained.weights[2][row], weights[row]));
      for (const auto& [slot, wanted] : row_state)
        CHECK(trained.state[2].at(slot)[1].item<double>() == doctest::Approx(wanted).epsilon(within));
    }
}

/// All rules, with weight decay where they have one.
std::vector<Choice> all_with_weight_decay() {
  const double decay = .01, rate = .05;
  return {Sgd{rate, decay},
          MomentumSgd{.learning_rate = rate, .weight_decay = decay},
          Adagrad{.learning_rate = rate, .weight_decay = decay},
          RowwiseAdagrad{.learning_rate = rate, .weight_decay = decay},
          RowwiseAdagrad{.learning_rate = rate, .weight_decay = decay, .weight_decay_mode = WeightDecayMode::decouple},
          RowwiseAdagradWithCounter{.learning_rate = rate, .weight_decay = decay, .counter_halflife = 5},
          MaxNormRowwise{RowwiseAdagrad{.learning_rate = rate, .weight_decay = decay}, .5},
          Adam{.learning_rate = rate, .eps = 1e-6, .weight_decay = decay},
          AdamW{.learning_rate = rate, .eps = 1e-6, .weight_decay = decay},
          PartialRowwiseAdam{.learning_rate = rate, .eps = 1e-6, .weight_decay = decay},
          Lamb{.learning_rate = rate, .eps = 1e-6, .weight_decay = decay},
          PartialRowwiseLamb{.learning_rate = rate, .eps = 1e-6, .weight_decay = decay},
          LarsSgd{.learning_rate = rate, .eta = .1, .weight_decay = decay},
          NoUpdate{},
          RowCounted<Adam>{{.learning_rate = rate, .eps = 1e-6, .weight_decay = decay}}};
}

/// Batches of up to 7 rows with bags of ids of a table of `rows` rows, and gradients.
std::vector<PooledBatch> random_steps(std::uint64_t seed, int steps, std::int64_t rows, std::int64_t dim, at::ScalarType dtype) {
  Draw draw(seed);
  std::vector<PooledBatch> batches;
  for (int step = 0; step < steps; ++step) {
    const auto batch = draw.integer(0, 7);
    batches.push_back({random_features(draw, {"t"}, {rows}, batch), draw.tensor({batch, dim}, dtype)});
  }
  return batches;
}

}  // namespace

TEST_SUITE("rules/tables") {
  TEST_CASE("A27 training steps on tables of equal columns: SGD, Adagrad, RowwiseAdagrad") {
    const double second = .1 + .1 / std::sqrt(2);
    const auto start = at::tensor({1., 1., 1., 1., 2., 2., 2., 2.}, at::kDouble).view({2, 4});
    const PooledBatch batch{features_of({"t"}, {{}, {0}, {0, 1}}), at::ones({3, 4}, at::kDouble)};
    for (const auto& layout : layouts(2, 4)) {
      CAPTURE(layout.text);
      const auto sgd = train(Sgd{.learning_rate = .1}, start, {batch, batch}, layout);
      CHECK(difference(sgd.weights[1].select(1, 0), at::tensor({.8, 1.9}, at::kDouble)) <= 1e-11);
      CHECK(difference(sgd.weights[2].select(1, 3), at::tensor({.6, 1.8}, at::kDouble)) <= 1e-11);
      for (const Choice& rule : {Choice{Adagrad{.learning_rate = .1}}, Choice{RowwiseAdagrad{.learning_rate = .1}}}) {
        const auto found = train(rule, start, {batch, batch}, layout);
        CHECK(difference(found.weights[1].select(1, 0), at::tensor({.9, 1.9}, at::kDouble)) <= 1e-7);
        CHECK(difference(found.weights[2].select(1, 3), at::tensor({1 - second, 2 - second}, at::kDouble)) <= 1e-7);
      }
    }
  }

  TEST_CASE("A30 SGD and Adagrad, a row hit twice") {
    check_both_steps(Sgd{.learning_rate = .5}, {.8, 2.1, 2.95, 3.6}, {.6, 2.2, 2.9, 3.2});
    check_both_steps(Adagrad{.learning_rate = .5, .eps = 1e-4}, {.5001250, 2.4997501, 2.5004995, 3.5000625},
                     {.1466341, 2.8531786, 2.1471959, 3.1465403});
  }
  TEST_CASE("A31 rowwise Adagrad, a row hit twice, with its weight-decay modes and max_norm") {
    const RowwiseAdagrad plain{.learning_rate = .5, .eps = 1e-4};
    check_both_steps(plain, {.5662332, 2.2168834, 2.8915583, 3.1324664}, {.2594942, 2.3702529, 2.8148736, 2.5189885},
                     {{"momentum1", .425}});
    const auto once = train(plain, at::tensor({1., 2., 3., 4.}, at::kDouble).view({1, 4}),
                            {{features_of({"t"}, {{0}, {0}}), at::tensor({.3, -.3, 0., .5, .1, .1, .1, .3}, at::kDouble).view({2, 4})}},
                            layouts(1, 4)[0]);
    CHECK(once.state[1].at("momentum1").item<double>() == doctest::Approx(.2125).epsilon(1e-12));
    const auto one_by_one = at::tensor({.4078402, 2.3225526, 2.8651964, 2.8333288}, at::kDouble);  // what two updates would give
    CHECK(once.weights[1].sub(one_by_one).abs().max().item<double>() > .1);
    auto decaying = plain;
    decaying.weight_decay = .01;
    check_both_steps(decaying, {.5733295, 2.1873188, 2.8647142, 3.1258458}, {.2731920, 2.3190864, 2.7695487, 2.5109300},
                     {{"momentum1", .4567223}});
    decaying.weight_decay_mode = WeightDecayMode::decouple;
    check_both_steps(decaying, {.5612332, 2.2068834, 2.8765583, 3.1124664}, {.2516881, 2.3492185, 2.7854908, 2.4834261},
                     {{"momentum1", .425}});
    // Of max_norm the first step is published; the second is by the formula in Python: the row is shorter than 4 by then.
    check_both_steps(MaxNormRowwise{plain, 4}, {.4681307, 1.8327984, 2.3905828, 2.5897524}, {.1613918, 1.9861678, 2.3138980, 1.9762746},
                     {{"momentum1", .425}});
    const auto weights = at::tensor({1., 2., 3., 4.}, at::kDouble).view({1, 4});
    const PooledBatch batch{features_of({"t"}, {{0}}), at::tensor({.4, -.2, .1, .8}, at::kDouble).view({1, 4})};
    const auto bounded = train(MaxNormRowwise{plain, 4}, weights, {batch}, layouts(1, 4)[0]);
    CHECK(bounded.weights[1][0].norm().item<double>() == doctest::Approx(4).epsilon(1e-12));
  }
  TEST_CASE("A32 Adam, decoupled as there, and partial rowwise Adam, a row hit twice") {
    check_both_steps(AdamW{.learning_rate = .5, .beta1 = .9, .beta2 = .99, .eps = 1e-4, .weight_decay = .01},
                     {.4951250, 2.4897501, 2.4854995, 3.4800625}, {-.0072257, 2.9770515, 1.9735715, 2.9627247});
    check_both_steps(PartialRowwiseAdam{.learning_rate = .5, .beta1 = .9, .beta2 = .99, .eps = 1e-4, .weight_decay = .01},
                     {.5612332, 2.2068834, 2.8765583, 3.1124664}, {.1246602, 2.4127324, 2.7537338, 2.2293704});
  }
  TEST_CASE("A33 LAMB, partial rowwise LAMB and LARS, a row hit twice") {
    check_both_steps(Lamb{.learning_rate = .5, .beta1 = .9, .beta2 = .99, .eps = 1e-4, .weight_decay = .01},
                     {-.3625051, 3.3216875, 1.6115187, 2.5968458}, {-1.4889603, 4.4143968, .4635875, 1.4367838});
    check_both_steps(PartialRowwiseLamb{.learning_rate = .5, .beta1 = .9, .beta2 = .99, .eps = 1e-4, .weight_decay = .01},
                     {-.1792587, 2.5560335, 2.6682299, 1.6146060}, {-1.0482863, 2.9657896, 2.4237396, -.1432553});
    check_both_steps(LarsSgd{.learning_rate = .5, .momentum = .9, .eta = .01, .weight_decay = .01},
                     {.9885041, 2.0050470, 2.9963550, 3.9764475}, {.9667037, 2.0146179, 2.9894426, 3.9317832});
  }

  TEST_CASE("A35 a column split of A31 gives the unsplit numbers and state, not those of each half") {
    const RowwiseAdagrad rule{.learning_rate = .5, .eps = 1e-4};
    const auto start = at::tensor({1., 2., 3., 4.}, at::kDouble).view({1, 4});
    const PooledBatch batch{features_of({"t"}, {{0}, {0}}), at::tensor({.3, -.3, 0., .5, .1, .1, .1, .3}, at::kDouble).view({2, 4})};
    const auto trained = train(rule, start, {batch}, {"columns", 2, {{{0, 1, 0, 2}, 0}, {{0, 1, 2, 4}, 1}}});
    const auto found = trained.weights[1];
    CHECK(found.sub(at::tensor({.5662332, 2.2168834, 2.8915583, 3.1324664}, at::kDouble)).abs().max().item<double>() <= 1e-6);
    CHECK(trained.state[1].at("momentum1").item<double>() == doctest::Approx(.2125).epsilon(1e-12));
    const auto halves = at::tensor({.3677444, 2.3161278, 2.9123096, 3.2984767}, at::kDouble);  // what shard-local means would give
    CHECK(found.sub(halves).abs().max().item<double>() > .02);
  }
  TEST_CASE("A35 every rule: split by columns, by rows and by both equals unsplit, state included") {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto batches = random_steps(5, 4, 9, 6, dtype);
      Draw draw(6);
      const auto start = draw.tensor({9, 6}, dtype);
      for (const auto& rule : all_with_weight_decay()) {
        CAPTURE(rule.name());
        const auto all = layouts(9, 6);
        const auto whole = train(rule, start, batches, all[0]);
        for (std::size_t i = 1; i < all.size(); ++i) {
          const auto split = train(rule, start, batches, all[i]);
          CAPTURE(all[i].text);
          const double within = dtype == at::kDouble ? 1e-11 : 1e-3;
          CHECK(difference(whole.weights.back(), split.weights.back()) <= within);
          for (const auto& [slot, tensor] : whole.state.back()) CHECK(difference(tensor, split.state.back().at(slot)) <= within);
        }
      }
    }
  }

  TEST_CASE("A36 rowwise Adagrad is Adagrad where the columns of a row are equal") {
    const auto start = at::tensor({1., 2., 3., 4.}, at::kDouble).unsqueeze(1).expand({4, 4}).contiguous();
    const PooledBatch batch{features_of({"t"}, {{0}, {3}}), at::ones({2, 4}, at::kDouble)};
    const std::vector<PooledBatch> batches(5, batch);
    // torch.optim.Adagrad([weight], lr=.01), eps 1e-10, five steps of embedding_bag(ids, offsets, weight, mode="sum").sum().backward():
    // each step takes .01 / sqrt(step) off rows 0 and 3.
    double moved = 0;
    for (int step = 1; step <= 5; ++step) moved += .01 / std::sqrt(step);
    const auto wanted = start.sub(at::tensor({moved, 0., 0., moved}, at::kDouble).unsqueeze(1));
    for (const auto& layout : layouts(4, 4)) {
      const auto rowwise = train(RowwiseAdagrad{.learning_rate = .01, .eps = 1e-10}, start, batches, layout);
      const auto full = train(Adagrad{.learning_rate = .01, .eps = 1e-10}, start, batches, layout);
      CHECK(difference(rowwise.weights[5], full.weights[5]) <= 1e-11);
      CHECK(difference(rowwise.weights[5], wanted) <= 1e-9);
    }
  }

  TEST_CASE("A37 with weight decay, rows without ids stay as they are to the last bit, state included") {
    for (const auto dtype : {at::kFloat, at::kDouble})
      for (const auto& layout : layouts(30, 5)) {
        const auto batches = random_steps(3, 6, 30, 5, dtype);
        Draw draw(4);
        const auto start = draw.tensor({30, 5}, dtype);
        for (const auto& rule : all_with_weight_decay()) {
          const auto trained = train(rule, start, batches, layout);
          int touched_rows = 0, untouched_rows = 0, wrong = 0;
          for (std::size_t step = 0; step < batches.size(); ++step) {
            std::vector<bool> touched(30);
            const auto& ids = batches[step].features.values();
            for (std::int64_t i = 0; i < ids.numel(); ++i) touched[static_cast<std::size_t>(ids[i].item<std::int64_t>())] = true;
            for (std::int64_t row = 0; row < 30; ++row) {
              const bool hit = touched[static_cast<std::size_t>(row)], updated = hit && rule.name() != "none";
              (hit ? touched_rows : untouched_rows)++;
              wrong += at::equal(trained.weights[step][row], trained.weights[step + 1][row]) == updated;
              for (const auto& [slot, before] : trained.state[step]) {
                const bool same = at::equal(before[row], trained.state[step + 1].at(slot)[row]);
                wrong += hit ? 0 : !same;
              }
            }
          }
          CAPTURE(rule.name());
          CHECK(wrong == 0);
          CHECK(touched_rows > 20);
          CHECK(untouched_rows > 20);
        }
      }
  }

  TEST_CASE("rows of zeros start: where a norm is zero, LAMB's and LARS's ratio is 1") {
    const auto start = at::zeros({2, 4}, at::kDouble);
    const PooledBatch batch{features_of({"t"}, {{1}}), at::ones({1, 4}, at::kDouble)};
    const PooledBatch still{features_of({"t"}, {{1}}), at::zeros({1, 4}, at::kDouble)};
    const auto row = [&](const Choice& rule, const PooledBatch& one) {
      return train(rule, start, {one}, layouts(2, 4)[2]).weights[1][1][3].item<double>();
    };
    CHECK(row(Lamb{.learning_rate = .5, .eps = 1e-30}, batch) == doctest::Approx(-.5).epsilon(1e-12));
    CHECK(row(PartialRowwiseLamb{.learning_rate = .5, .eps = 1e-30}, batch) == doctest::Approx(-.5).epsilon(1e-12));
    CHECK(row(LarsSgd{.learning_rate = .5, .eta = .1}, batch) == doctest::Approx(-.05).epsilon(1e-12));
    for (const Choice& rule : {Choice{Lamb{}}, Choice{PartialRowwiseLamb{}}, Choice{LarsSgd{.weight_decay = .1}}})
      CHECK(row(rule, still) == 0);
  }

  TEST_CASE("a row counter corrects the bias by the row's own steps") {
    const auto start = at::zeros({2, 2}, at::kDouble);
    const PooledBatch first{features_of({"t"}, {{0}}), at::ones({1, 2}, at::kDouble)};
    const PooledBatch both{features_of({"t"}, {{0}, {1}}), at::ones({2, 2}, at::kDouble)};
    const RowCounted<Adam> counted{{.learning_rate = .1, .eps = 1e-30}};
    const auto trained = train(counted, start, {first, first, first, both}, layouts(2, 2)[2]);
    // Equal gradients: each corrected step is learning_rate, whenever the row comes first.
    CHECK(trained.weights[4][0][1].item<double>() == doctest::Approx(-.4).epsilon(1e-12));
    CHECK(trained.weights[4][1][1].item<double>() == doctest::Approx(-.1).epsilon(1e-12));
    CHECK(at::equal(trained.state[4].at("row_steps"), at::tensor({4., 1.}, at::kDouble)));
    const auto global = train(counted.rule, start, {first, first, first, both}, layouts(2, 2)[0]);
    const double first_moment = .1 / (1 - std::pow(.9, 4)), second_moment = .001 / (1 - std::pow(.999, 4));
    CHECK(global.weights[4][1][1].item<double>() == doctest::Approx(-.1 * first_moment / std::sqrt(second_moment)));
  }

  TEST_CASE("names of rules and of their state") {
    std::vector<std::string> names;
    for (const auto& rule : all_with_weight_decay()) names.emplace_back(rule.name());
    CHECK(names == std::vector<std::string>{"sgd", "momentum_sgd", "adagrad", "rowwise_adagrad", "rowwise_adagrad",
                                            "rowwise_adagrad_with_counter", "max_norm_rowwise_adagrad", "adam", "adamw",
                                            "partial_rowwise_adam", "lamb", "partial_rowwise_lamb", "lars_sgd", "none",
                                            "row_counted_adam"});
    CHECK(MomentumSgd::state[0].name == "momentum_buffer");
    CHECK((PartialRowwiseLamb::state[1].shape == StateShape::row));
    CHECK(RowCounted<Adam>::state.back().name == "row_steps");
  }

  TEST_CASE("a rule says what its state starts at") {
    CHECK(initial_state(Sgd{}, 0) == 0);
    CHECK(initial_state(Adam{}, 1) == 0);
    CHECK(initial_state(Adagrad{.initial_accumulator_value = .1}, 0) == .1);
    CHECK(initial_state(MaxNorm{RowwiseAdagrad{.initial_accumulator_value = .2}, 1}, 0) == .2);
    const RowCounted counted{RowwiseAdagradWithCounter{.initial_accumulator_value = .3}};
    CHECK(initial_state(counted, 0) == .3);
    for (const std::size_t slot : {1, 2, 3}) CHECK(initial_state(counted, slot) == 0);
  }

  TEST_CASE("a table's state starts where its rule says, under every plan") {
    const auto start = at::ones({3, 4}, at::kDouble);
    const PooledBatch batch{features_of({"t"}, {{1}}), at::ones({1, 4}, at::kDouble)};
    for (const auto& layout : layouts(3, 4))
      for (const Choice& rule : {Choice{Adagrad{.learning_rate = .1, .initial_accumulator_value = 3}},
                                 Choice{RowwiseAdagrad{.learning_rate = .1, .initial_accumulator_value = 3}}}) {
        const auto trained = train(rule, start, {batch}, layout);
        CHECK(trained.state[0].at("momentum1").sub(3).abs().max().item<double>() == 0);
        CHECK(trained.state[1].at("momentum1")[1].mean().item<double>() == doctest::Approx(4).epsilon(1e-12));
        CHECK(trained.weights[1][1][2].item<double>() == doctest::Approx(1 - .1 / 2).epsilon(1e-7));
      }
  }

  TEST_CASE("a probe shows every hyper-parameter, those of whole rows too") {
    CHECK(probe(Adagrad{}) != probe(Adagrad{.initial_accumulator_value = .1}));
    CHECK(probe(MaxNorm{RowwiseAdagrad{}, 4}) != probe(MaxNorm{RowwiseAdagrad{}, 5}));
    CHECK(probe(RowwiseAdagrad{.weight_decay = .1}) !=
          probe(RowwiseAdagrad{.weight_decay = .1, .weight_decay_mode = WeightDecayMode::decouple}));
    CHECK(probe(MomentumSgd{}) != probe(MomentumSgd{.nesterov = true}));
    CHECK(probe(LarsSgd{}) != probe(LarsSgd{.eta = .01}));
    CHECK(probe(RowCounted{Adam{}}) != probe(Adam{}));
    CHECK(probe(Lamb{.weight_decay = .1}) != probe(Lamb{}));
  }
}

}  // namespace rookery
