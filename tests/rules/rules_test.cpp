// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
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

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

static_assert(concepts::Rule<Sgd> && concepts::Rule<Adagrad> && concepts::Rule<RowwiseAdagrad> && concepts::Rule<Adam>);

at::Tensor rows_of(const std::vector<double>& values, at::ScalarType dtype = at::kDouble) {
  return at::tensor(values, dtype).unsqueeze(1).expand({static_cast<std::int64_t>(values.size()), 4});
}
using Choice = RuleChoice<EveryRule>;

/// The topologies that every case runs on: Local, and threads with the table whole and in blocks of rows.
const std::vector<int> topologies{0, 1, 2};

/// A27: two tables of equal columns, the loss the sum of outputs. Gives the tables after each step.
std::vector<std::vector<WholeTable>> two_steps_of_sums(const Choice& rule, int ranks, at::ScalarType dtype) {
  Collection tables(
      {{.name = "t0", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {"feature_0"}, .data_type = dtype, .optimizer = rule},
       {.name = "t1", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {"feature_1"}, .data_type = dtype, .optimizer = rule}});
  tables.assign("t0", rows_of({1, 2}));
  tables.assign("t1", rows_of({4, 8}));
  const PooledBatch batch{features_of({"feature_0", "feature_1"}, {{}, {0}, {0, 1}, {1}, {0, 1}, {}}), at::ones({3, 8}, dtype)};
  return train_tables(tables, {batch, batch}, ranks).tables;
}

/// A30 to A32: the second row of three is hit twice, with gradients that add up to [.4, -.2, .1, .8]. Row 0 is hit once, row 2 not at all.
struct HitTwice {
  at::Tensor first, second;       // [4], the row after each step
  std::vector<at::Tensor> state;  // of the row, after the second
  bool third_row_untouched = false;
};
HitTwice hit_twice(const Choice& rule, int ranks, at::ScalarType dtype) {
  // Table "other" comes first, so that under threads "t" is the one split by rows.
  Collection tables({{.name = "other", .num_embeddings = 1, .embedding_dim = 4, .data_type = dtype},
                     {.name = "t", .num_embeddings = 3, .embedding_dim = 4, .data_type = dtype, .optimizer = rule}});
  const auto weights = at::tensor({9., 9., 9., 9., 1., 2., 3., 4., 5., 6., 7., 8.}, at::kDouble).view({3, 4});
  tables.assign("t", weights);
  const auto gradient = at::tensor({0., 0., 0., 0., .3, -.3, 0., .5, 0., 0., 0., 0., .1, .1, .1, .3}, at::kDouble).view({2, 8}).to(dtype);
  const PooledBatch batch{features_of({"other", "t"}, {{}, {}, {1}, {0, 1}}), gradient};
  const auto trained = train_tables(tables, {batch, batch}, ranks).tables;
  HitTwice found{trained[1][1].weight[1], trained[2][1].weight[1], {}, at::equal(trained[2][1].weight[2], weights[2].to(dtype))};
  for (const auto& state : trained[2][1].state) {
    found.state.push_back(state[1]);
    found.third_row_untouched = found.third_row_untouched && state[2].abs().max().template item<double>() == 0;
  }
  return found;
}
void check_near(const at::Tensor& found, const std::vector<double>& expected, double within) {
  const auto gap = found.to(at::kDouble).sub(at::tensor(expected, at::kDouble)).abs().max().item<double>();
  CAPTURE(found);
  CHECK(gap <= within);
}
void check_both_steps(const Choice& rule, const std::vector<double>& first, const std::vector<double>& second) {
  for (const int ranks : topologies)
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto found = hit_twice(rule, ranks, dtype);
      CAPTURE(ranks);
      check_near(found.first, first, dtype == at::kDouble ? 1e-6 : 1e-4);
      check_near(found.second, second, dtype == at::kDouble ? 1e-6 : 1e-4);
      CHECK(found.third_row_untouched);
    }
}

/// A rule of a user's with a member of a well-known name.
struct WithBeta {
  double beta = .5;
  static constexpr std::string_view name = "with_beta";
};

}  // namespace

TEST_SUITE("rules/rules") {
  TEST_CASE("a choice names and visits its rule") {
    const Choice standard, adam = Adam{.learning_rate = .5, .beta1 = .8};
    CHECK(standard.name() == "sgd");
    CHECK(adam.name() == "adam");
    CHECK(adam.visit([](const auto& rule) { return rule.learning_rate; }) == .5);
    Choice changed = Adagrad{};
    changed = RowwiseAdagrad{.eps = 1};
    CHECK(changed.name() == "rowwise_adagrad");
    const Choice copy = changed;
    CHECK(copy.visit([]<class R>(const R& rule) { return std::is_same_v<R, RowwiseAdagrad> && rule.learning_rate == .01; }));
  }
  TEST_CASE("rules name their state as checkpoints do") {
    CHECK(Sgd::state.empty());
    CHECK(Adagrad::state[0].name == "momentum1");
    CHECK((Adagrad::state[0].shape == StateShape::element));
    CHECK((RowwiseAdagrad::state[0].shape == StateShape::row));
    CHECK(Adam::state[0].name == "exp_avg");
    CHECK(Adam::state[1].name == "exp_avg_sq");
  }
  TEST_CASE("a probe shows what a rule does, so that hyper-parameters can be compared") {
    CHECK(probe(Sgd{.learning_rate = .5}) == "sgd that makes [0.75, -2.125] of [1, -2]");
    CHECK(probe(RowwiseAdagrad{}).find(" [0.40625, ") != std::string::npos);   // .25 + (.25 + .0625) / 2
    CHECK(probe(Adam{}) != probe(Adam{.eps = 1e-7}));
    CHECK(probe(Adam{}) != probe(Adam{.beta2 = .99}));
    CHECK(probe(Adam{}) == probe(Adam{}));
  }
  TEST_CASE("a description names the well-known hyper-parameters, also of the rule inside another, before what the rule does") {
    CHECK(describe(Sgd{.learning_rate = .5}) == "sgd with learning_rate 0.5, weight_decay 0; " + probe(Sgd{.learning_rate = .5}));
    CHECK(describe(MaxNorm{RowwiseAdagrad{.learning_rate = .05}, 4})
              .starts_with("max_norm_rowwise_adagrad with max_norm 4, learning_rate 0.05, eps 1e-08, weight_decay 0, "
                           "initial_accumulator_value 0; max_norm_rowwise_"));
    CHECK(describe(NoUpdate{}) == "none; " + probe(NoUpdate{}));
  }
  TEST_CASE("numbers that mean nothing are refused, of the rule inside another too") {
    CHECK_NOTHROW(check_rule(MaxNorm{RowwiseAdagrad{}, 4}, "Test"));
    CHECK_THROWS_WITH_AS(check_rule(MaxNorm{RowwiseAdagrad{.learning_rate = -1}, 4}, "Test"),
                         "Test: max_norm_rowwise_adagrad has learning_rate -1; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(MaxNorm{RowwiseAdagrad{}, -4}, "Test"),
                         "Test: max_norm_rowwise_adagrad has max_norm -4; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(RowCounted{Adam{.beta1 = 1}}, "Test"), "Test: row_counted_adam has beta1 1; it must lie in [0, 1)",
                         ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(Adagrad{.initial_accumulator_value = -1}, "Test"),
                         "Test: adagrad has initial_accumulator_value -1; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(LarsSgd{.eta = -.5}, "Test"), "Test: lars_sgd has eta -0.5; it must be finite and not negative",
                         ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(RowwiseAdagradWithCounter{.adjustment_ub = -1}, "Test"),
                         "Test: rowwise_adagrad_with_counter has adjustment_ub -1; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(RowwiseAdagradWithCounter{.max_counter = std::numeric_limits<double>::infinity()}, "Test"),
                         "Test: rowwise_adagrad_with_counter has max_counter inf; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(check_rule(WithBeta{.beta = 1.5}, "Test"), "Test: with_beta has beta 1.5; it must lie in [0, 1)", ConfigError);
  }
  TEST_CASE("an eps that would be zero in float32 is refused; with the smallest one a first gradient of zero is a step of zero") {
    for (const double eps : {0., 1e-50, 1e-42}) {
      CHECK_THROWS_AS(check_rule(Adagrad{.eps = eps}, "Test"), ConfigError);
      CHECK_THROWS_AS(check_rule(RowCounted{Lamb{.eps = eps}}, "Test"), ConfigError);
    }
    CHECK_THROWS_WITH_AS(check_rule(RowwiseAdagrad{.eps = 0}, "Test"),
                         "Test: rowwise_adagrad has eps 0; it must be finite and positive in float32, 2^-126 or more", ConfigError);
    const auto still = [](auto rule) {
      rule.eps = 0x1p-126;
      check_rule(rule, "Test");
      std::array<float, 2> weights{1, 0}, gradients{};
      std::array<std::array<float, 2>, 3> values{};
      std::array<float*, 3> state{values[0].data(), values[1].data(), values[2].data()};
      const Row<float> row{weights.data(), gradients.data(), state.data(), 2, 2};
      std::array<double, 8> sums{};
      if constexpr (rule.row_sums > 0) rule.sum_row(row, {}, sums.data());
      rule.update(row, {}, sums.data());
      return weights == std::array<float, 2>{1, 0};
    };
    CHECK(still(Adagrad{}));
    CHECK(still(RowwiseAdagrad{}));
    CHECK(still(RowwiseAdagradWithCounter{}));
    CHECK(still(Adam{}));
    CHECK(still(AdamW{.weight_decay = 0}));
    CHECK(still(PartialRowwiseAdam{}));
    CHECK(still(Lamb{}));
    CHECK(still(PartialRowwiseLamb{}));
  }

  TEST_CASE("hyper-parameters start where the peers' do") {
    CHECK(Sgd{}.learning_rate == .01);
    CHECK(Adagrad{}.eps == 1e-8);
    CHECK(RowwiseAdagrad{}.eps == 1e-8);
    const Adam adam;
    CHECK((adam.learning_rate == .001 && adam.beta1 == .9 && adam.beta2 == .999 && adam.eps == 1e-8));
  }
  TEST_CASE("A27 training steps: SGD") {
    for (const int ranks : topologies)
      for (const auto dtype : {at::kDouble, at::kFloat}) {
        const auto tables = two_steps_of_sums(Sgd{.learning_rate = .1}, ranks, dtype);
        const double within = tolerance(dtype);
        CHECK(difference(tables[1][0].weight, rows_of({.8, 1.9})) <= within);
        CHECK(difference(tables[2][0].weight, rows_of({.6, 1.8})) <= within);
        CHECK(difference(tables[1][1].weight, rows_of({3.9, 7.8})) <= within);
        CHECK(difference(tables[2][1].weight, rows_of({3.8, 7.6})) <= within);
      }
  }
  TEST_CASE("A27 training steps: Adagrad and RowwiseAdagrad") {
    const double second = .1 + .1 / std::sqrt(2);
    for (const Choice& rule : {Choice{Adagrad{.learning_rate = .1}}, Choice{RowwiseAdagrad{.learning_rate = .1}}})
      for (const int ranks : topologies)
        for (const auto dtype : {at::kDouble, at::kFloat}) {
          const auto tables = two_steps_of_sums(rule, ranks, dtype);
          const double within = dtype == at::kDouble ? 1e-8 : 1e-5;  // eps is not in the expected numbers
          CHECK(difference(tables[1][0].weight, rows_of({.9, 1.9})) <= within);
          CHECK(difference(tables[2][0].weight, rows_of({1 - second, 2 - second})) <= within);
          CHECK(difference(tables[1][1].weight, rows_of({3.9, 7.9})) <= within);
          CHECK(difference(tables[2][1].weight, rows_of({4 - second, 8 - second})) <= within);
        }
  }
  TEST_CASE("A30 SGD, a row hit twice") { check_both_steps(Sgd{.learning_rate = .5}, {.8, 2.1, 2.95, 3.6}, {.6, 2.2, 2.9, 3.2}); }
  TEST_CASE("A30 Adagrad, a row hit twice") {
    check_both_steps(Adagrad{.learning_rate = .5, .eps = 1e-4}, {.5001250, 2.4997501, 2.5004995, 3.5000625},
                     {.1466341, 2.8531786, 2.1471959, 3.1465403});
  }
  TEST_CASE("A31 rowwise Adagrad, a row hit twice") {
    const RowwiseAdagrad rule{.learning_rate = .5, .eps = 1e-4};
    check_both_steps(rule, {.5662332, 2.2168834, 2.8915583, 3.1324664}, {.2594942, 2.3702529, 2.8148736, 2.5189885});
    for (const int ranks : topologies)
      CHECK(hit_twice(rule, ranks, at::kDouble).state[0].item<double>() == doctest::Approx(.425).epsilon(1e-9));
  }
  TEST_CASE("A32 Adam, a row hit twice") {
    // The published numbers carry a weight decay of .01, which takes rate * .01 * weight off at each step; the step itself is Adam's.
    const Adam rule{.learning_rate = .5, .beta1 = .9, .beta2 = .99, .eps = 1e-4};
    const auto start = at::tensor({1., 2., 3., 4.}, at::kDouble);
    for (const int ranks : topologies)
      for (const auto dtype : {at::kDouble, at::kFloat}) {
        const auto found = hit_twice(rule, ranks, dtype);
        const double within = dtype == at::kDouble ? 1e-6 : 1e-4;
        const auto plain_first = found.first.to(at::kDouble), plain_second = found.second.to(at::kDouble);
        const auto first = plain_first.sub(start.mul(.5 * .01));
        const auto second = first.add(plain_second.sub(plain_first)).sub(first.mul(.5 * .01));
        check_near(first, {.4951250, 2.4897501, 2.4854995, 3.4800625}, within);
        check_near(second, {-.0072257, 2.9770515, 1.9735715, 2.9627247}, within);
        check_near(plain_first, {.5001250, 2.4997501, 2.5004995, 3.5000625}, within);
        CHECK(found.third_row_untouched);
      }
  }
  TEST_CASE("A37 rows without ids stay as they are to the last bit, state included") {
    const std::vector<Choice> rules{Sgd{.learning_rate = .1}, Adagrad{.learning_rate = .1}, RowwiseAdagrad{.learning_rate = .1},
                                    Adam{.learning_rate = .1}};
    for (const auto dtype : {at::kFloat, at::kDouble})
      for (const int ranks : {0, 2, 3}) {
        std::vector<Config> configs;
        for (std::size_t r = 0; r < rules.size(); ++r)
          for (const auto* kind : {"whole", "split"})
            configs.push_back({.name = concat(kind, r),
                               .num_embeddings = 30,
                               .embedding_dim = 5,
                               .feature_names = {"ids"},
                               .data_type = dtype,
                               .optimizer = rules[r]});
        const Collection tables(configs);
        std::vector<PooledBatch> batches;
        Draw draw(3);
        for (int step = 0; step < 6; ++step) {
          const auto batch = draw.integer(0, 7);
          batches.push_back({random_features(draw, {"ids"}, {30}, batch), draw.tensor({batch, tables.width()}, dtype)});
        }
        const auto trained = train_tables(tables, batches, ranks).tables;
        int touched_rows = 0, untouched_rows = 0, wrong = 0;
        for (std::size_t step = 0; step < batches.size(); ++step) {
          std::vector<bool> touched(30);
          const auto& ids = batches[step].features.values();
          for (std::int64_t i = 0; i < ids.numel(); ++i) touched[static_cast<std::size_t>(ids[i].item<std::int64_t>())] = true;
          for (std::size_t t = 0; t < configs.size(); ++t)
            for (std::int64_t row = 0; row < 30; ++row) {
              const auto &before = trained[step][t], &after = trained[step + 1][t];
              bool same = at::equal(before.weight[row], after.weight[row]);
              const bool hit = touched[static_cast<std::size_t>(row)];
              (hit ? touched_rows : untouched_rows)++;
              wrong += same == hit;
              for (std::size_t slot = 0; slot < before.state.size(); ++slot)
                wrong += at::equal(before.state[slot][row], after.state[slot][row]) == hit;
            }
        }
        CHECK(wrong == 0);
        CHECK(touched_rows > 100);
        CHECK(untouched_rows > 100);
      }
  }
  TEST_CASE("a row whose gradients cancel is still a row with ids: Adam's moments move it on, SGD leaves it") {
    Collection tables(
        {{.name = "t", .num_embeddings = 1, .embedding_dim = 2, .data_type = at::kDouble, .optimizer = Adam{.learning_rate = .1}}});
    tables.assign("t", at::ones({1, 2}, at::kDouble));
    const auto gradient = at::tensor({1., 1., -1., -1.}, at::kDouble).view({2, 2});
    const PooledBatch push{features_of({"t"}, {{0}}), at::ones({1, 2}, at::kDouble)}, cancel{features_of({"t"}, {{0}, {0}}), gradient};
    const auto trained = train_tables(tables, {push, cancel}).tables;
    CHECK(trained[1][0].weight[0][0].item<double>() == doctest::Approx(.9).epsilon(1e-7));
    // moments .09 and .000999 of the second step, corrected by 1 - .9^2 and 1 - .999^2
    CHECK(trained[2][0].weight[0][0].item<double>() == doctest::Approx(.9 - .1 * (.09 / .19) / std::sqrt(.000999 / .001999)).epsilon(1e-6));
  }
  TEST_CASE("a column split shows a rule the sums of whole rows") {
    const RowwiseAdagrad rule{.learning_rate = .5, .eps = 1e-4};
    const std::array<double, 4> gradient{.4, -.2, .1, .8};
    std::array<double, 4> weight{1, 2, 3, 4};
    double left = 0, right = 0;
    std::array<double, 2> sums{};
    double* const left_state[] = {&left};
    double* const right_state[] = {&right};
    const Row<double> left_half{weight.data(), gradient.data(), left_state, 2, 4},
        right_half{weight.data() + 2, gradient.data() + 2, right_state, 2, 4};
    rule.sum_row(left_half, {}, &sums[0]);
    rule.sum_row(right_half, {}, &sums[1]);
    CHECK(sums[0] == doctest::Approx(.2));
    CHECK(sums[1] == doctest::Approx(.65));
    const double total = sums[0] + sums[1];
    rule.update(left_half, {}, &total);
    rule.update(right_half, {}, &total);
    CHECK(left == doctest::Approx(.2125));
    CHECK(right == left);
    const std::array<double, 4> a31{.5662332, 2.2168834, 2.8915583, 3.1324664};
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(weight[i] - a31[i]) < 1e-6);
  }
}

}  // namespace rookery
