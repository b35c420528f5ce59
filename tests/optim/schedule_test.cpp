// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/optim/schedule.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/pattern.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/optim/parameter_group.hpp>

#include "optim/driven.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

void follows(const Schedule& schedule, const std::vector<std::pair<std::int64_t, double>>& points) {
  for (const auto& point : points) {
    CAPTURE(point.first);
    CHECK(std::abs(schedule.factor(point.first) - point.second) <= 1e-15);
  }
}

/// A step in which a, b and row 1 have gradients of 1 each, and the weights after it: a[0], b[0], the row's first.
template <class Model, class Step> std::vector<double> one_step(Model& model, Step& step) {
  model(on_last_rank(model.topology(), {.a = numbers({1, 1}), .b = numbers({1, 1}), .ids = {1}, .rows = numbers({1, 1}).view({1, 2})}))
      .loss.backward();
  step();
  const at::NoGradGuard no_grad;
  return {model.model().a.tensor()[0].template item<double>(), model.model().b.tensor()[0].template item<double>(),
          gather_table(model, "t")[1][0].template item<double>()};
}
bool near(const std::vector<double>& found, const std::vector<double>& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (!(std::abs(found[i] - wanted[i]) <= 1e-12)) return false;
  return found.size() == wanted.size();
}

}  // namespace

TEST_SUITE("optim/schedule") {
  TEST_CASE("A39 warm-up: linear from .01 in 100 steps") {
    const WarmupSchedule schedule{{{.policy = WarmupPolicy::linear, .max_iters = 100, .value = .01}}};
    const auto rate = [&](std::int64_t step) { return .1 * schedule.factor(step); };
    CHECK(rate(0) == doctest::Approx(.001).epsilon(1e-14));
    CHECK(rate(1) == doctest::Approx(.00199).epsilon(1e-14));
    CHECK(rate(50) == doctest::Approx(.0505).epsilon(1e-14));
    CHECK(rate(100) == doctest::Approx(.1).epsilon(1e-14));
    for (const std::int64_t step : {101, 1000, 1'000'000}) CHECK(rate(step) == .1);
  }
  TEST_CASE("A39 every stage, exactly, one after the other; after the last the factor is 1") {
    const WarmupSchedule schedule{{{.policy = WarmupPolicy::constant, .max_iters = 10, .value = .25, .lr_scale = 2},
                                   {.policy = WarmupPolicy::poly, .max_iters = 20, .value = 2, .decay_iters = 40},
                                   {.policy = WarmupPolicy::step, .max_iters = 30, .value = .5, .decay_iters = 8},
                                   {.policy = WarmupPolicy::inv_sqrt, .max_iters = 40, .lr_scale = 3},
                                   {.policy = WarmupPolicy::cosine_annealing_warm_restarts, .max_iters = 60, .value = .2, .sgdr_period = 8},
                                   {.policy = WarmupPolicy::none, .max_iters = 70, .lr_scale = .5}}};
    follows(schedule, {{0, .5},
                       {10, .5},  // the stage ends with its last step
                       {11, std::pow(1 - 11. / 40, 2)},
                       {20, .25},
                       {21, .25},
                       {24, .125},
                       {30, .125},  // floor(i / 8) is 2, then 3
                       {31, 3 / std::sqrt(31.)},
                       {36, .5},
                       {40, 3 / std::sqrt(40.)},
                       {41, .2 + .8 * (1 + std::cos(std::acos(-1.) / 8)) / 2},
                       {44, .6},
                       {48, 1},
                       {52, .6},
                       {56, 1},
                       {61, .5},
                       {70, .5},
                       {71, 1}});
    follows(WarmupSchedule{{{.policy = WarmupPolicy::step, .max_iters = 5, .value = .5}}}, {{0, 1}, {1, .5}, {5, 1. / 32}, {6, 1}});
    follows(WarmupSchedule{{{.policy = WarmupPolicy::poly, .max_iters = 4, .value = 1}}}, {{0, 1}, {1, .75}, {4, 0}, {5, 1}});
    follows(WarmupSchedule{{{.policy = WarmupPolicy::poly, .max_iters = 9, .value = .5, .decay_iters = 4}}}, {{5, 0}, {9, 0}});
    follows(WarmupSchedule{{{.policy = WarmupPolicy::inv_sqrt, .max_iters = 9}}}, {{0, 1}, {1, 1}, {4, .5}});
    follows(WarmupSchedule{}, {{0, 1}, {9, 1}});
  }
  TEST_CASE("4.2 learning rates: constant, ramp, ramp to cosine, piecewise") {
    follows(ConstantSchedule{.5}, {{0, .5}, {1'000'000, .5}});
    const auto ramp = [](std::int64_t step) { return 1e-4 * RampSchedule{.steps = 1000}.factor(step); };
    for (const auto& [step, wanted] :
         std::vector<std::pair<std::int64_t, double>>{{0, 0}, {1, 1e-7}, {500, 5e-5}, {1000, 1e-4}, {5000, 1e-4}})
      CHECK(std::abs(ramp(step) - wanted) < 1e-18);
    follows(RampSchedule{.from = .5, .steps = 4}, {{0, .5}, {1, .625}, {4, 1}, {5, 1}});
    const auto cosine = [](std::int64_t step) { return .01 * CosineSchedule{.ramp_steps = 10, .end = 110, .final = .1}.factor(step); };
    for (const auto& [step, wanted] : std::vector<std::pair<std::int64_t, double>>{
             {0, 0}, {5, .005}, {9, .009}, {10, .01}, {35, .00868198}, {60, .0055}, {85, .00231802}, {110, .001}, {111, .001}})
      CHECK(std::abs(cosine(step) - wanted) < 5e-9);
    follows(PiecewiseSchedule{.boundaries = {10, 20}, .values = {.1, .01, .001}},
            {{0, .1}, {9, .1}, {10, .01}, {19, .01}, {20, .001}, {99, .001}});
  }
  TEST_CASE("the stages of the tutorial: warm up from a tenth, fall to nothing, and 1 again behind the last") {
    const WarmupSchedule warm_then_fall{{{.policy = WarmupPolicy::linear, .max_iters = 1000, .value = .1},
                                         {.policy = WarmupPolicy::poly, .max_iters = 100'000, .value = 1}}};
    const double factors[] = {warm_then_fall.factor(0), warm_then_fall.factor(500), warm_then_fall.factor(50'000),
                              warm_then_fall.factor(100'000), warm_then_fall.factor(100'001)};
    const double wanted[] = {.1, .55, .5, 0, 1};
    for (int i = 0; i < 5; ++i) CHECK(factors[i] == doctest::Approx(wanted[i]));
  }
  TEST_CASE("a schedule that makes no sense is refused") {
    CHECK_THROWS_WITH_AS(Schedule(RampSchedule{.steps = 0}), "RampSchedule: steps is 0; it must be positive", ConfigError);
    CHECK_THROWS_AS(Schedule(CosineSchedule{.ramp_steps = 5, .end = 5}), ConfigError);
    CHECK_THROWS_WITH_AS(Schedule(PiecewiseSchedule{.boundaries = {10}, .values = {1}}),
                         "PiecewiseSchedule: 1 values for 1 boundaries; there must be one more", ConfigError);
    CHECK_THROWS_WITH_AS(Schedule(PiecewiseSchedule{.boundaries = {10, 10}, .values = {1, 2, 3}}),
                         "PiecewiseSchedule: boundaries [10, 10] do not ascend", ConfigError);
    CHECK_THROWS_WITH_AS(Schedule(WarmupSchedule{{{.max_iters = 5}, {.max_iters = 5}}}),
                         "WarmupSchedule: a stage ends at step 5; it must end after step 5", ConfigError);
    CHECK_THROWS_AS(Schedule(WarmupSchedule{{{.max_iters = 0}}}), ConfigError);
    CHECK_THROWS_AS(Schedule(WarmupSchedule{{{.max_iters = 5, .sgdr_period = 0}}}), ConfigError);
    CHECK_THROWS_WITH_AS(Schedule(CosineSchedule{.end = 10, .final = -.1}),
                         "CosineSchedule: final is -0.1; it must be finite and not negative", ConfigError);
    for (const double wrong : {-1., std::nan(""), HUGE_VAL}) {
      CHECK_THROWS_AS(Schedule(CosineSchedule{.final = wrong}), ConfigError);
      CHECK_THROWS_AS(Schedule(ConstantSchedule{wrong}), ConfigError);
      CHECK_THROWS_AS(Schedule(RampSchedule{.from = wrong}), ConfigError);
      CHECK_THROWS_AS(Schedule(PiecewiseSchedule{.boundaries = {10}, .values = {1, wrong}}), ConfigError);
      CHECK_THROWS_AS(Schedule(WarmupSchedule{{{.value = wrong}}}), ConfigError);
      CHECK_THROWS_AS(Schedule(WarmupSchedule{{{.lr_scale = wrong}}}), ConfigError);
    }
    Schedule(PiecewiseSchedule{.boundaries = {10}, .values = {1, 0}});
  }
}

TEST_SUITE("optim/parameter_group") {
  TEST_CASE("groups choose rates and schedules by full name, of parameters and tables; the first match counts") {
    on_every_topology([](auto& topology) {
      auto model = placed(driven(Sgd{.learning_rate = 1}), topology);
      Optimizer step(
          model, Sgd{.learning_rate = 1},
          {.groups = {{.pattern = "item.*.weight", .schedule = RampSchedule{.steps = 4}},
                      {.pattern = "b", .learning_rate_factor = .5},
                      {.pattern = "*", .learning_rate_factor = 2, .schedule = PiecewiseSchedule{.boundaries = {1}, .values = {1, .25}}}}});
      CHECK(near(one_step(model, step), {-2, -.5, 0}));
      CHECK(near(one_step(model, step), {-2.5, -1, -.25}));
      step.set_learning_rate_factor(.5);  // multiplies all
      CHECK(near(one_step(model, step), {-2.75, -1.25, -.5}));
    });
  }
  TEST_CASE("without a group that matches, the rule's own rate counts; a schedule of one's own will do") {
    struct EverySecond {
      double factor(std::int64_t step) const { return step % 2 == 0 ? 1 : 0; }
    };
    Local topology;
    auto model = placed(driven(Sgd{.learning_rate = 1}), topology);
    Optimizer step(model, Sgd{.learning_rate = 1}, {.groups = {{.pattern = "a", .schedule = EverySecond{}}}});
    CHECK(near(one_step(model, step), {-1, -1, -1}));
    CHECK(near(one_step(model, step), {-1, -2, -2}));
    CHECK(near(one_step(model, step), {-2, -3, -3}));
  }
  TEST_CASE("a skipped step does not move a schedule on") {
    Local topology;
    auto model = placed(driven(Sgd{.learning_rate = 1}), topology);
    Optimizer step(model, Sgd{.learning_rate = 1},
                   {.non_finite = NonFinite::skip, .groups = {{.schedule = PiecewiseSchedule{.boundaries = {1}, .values = {1, 0}}}}});
    model({.a = numbers({std::nan(""), 0})}).loss.backward();
    CHECK(!step());
    CHECK(near(one_step(model, step), {-1, -1, -1}));
    CHECK(near(one_step(model, step), {-1, -1, -1}));
  }
  TEST_CASE("a group that decides nothing is refused by name") {
    Local topology;
    auto model = placed(driven(), topology);
    CHECK_THROWS_WITH_AS(Optimizer(model, Sgd{}, {.groups = {{.pattern = "over.*"}}}),
                         "Optimizer: group 'over.*' matches no parameter and no table; there are [a, b, item.embedding_bags.t.weight]",
                         ConfigError);
    CHECK_THROWS_WITH_AS(Optimizer(model, Sgd{}, {.groups = {{.pattern = "*"}, {.pattern = "a"}}}),
                         "Optimizer: group 'a' matches only what groups before it have", ConfigError);
    CHECK_THROWS_WITH_AS(Optimizer(model, Sgd{}, {.groups = {{.pattern = "a", .learning_rate_factor = -2}}}),
                         "Optimizer: group 'a' has learning_rate_factor -2; it must be finite and not negative", ConfigError);
    CHECK_THROWS_AS(Optimizer(model, Sgd{}, {.groups = {{.learning_rate_factor = std::nan("")}}}), ConfigError);
  }
  TEST_CASE("a factor that is negative or not finite ends the step before anything changed") {
    Local topology;
    auto model = placed(driven(), topology);
    struct Falling {
      double factor(std::int64_t step) const { return step == 0 ? 1 : -1; }
    };
    Optimizer step(model, Sgd{.learning_rate = 1}, {.groups = {{.pattern = "a", .schedule = Falling{}}}});
    const auto before = one_step(model, step);
    std::string said;
    try {
      one_step(model, step);
    } catch (const ConfigError& error) {
      said = error.what();
    }
    CHECK(said == "Optimizer: group 'a' multiplies its learning rate by -1 after step 1; it must be finite and not negative");
    CHECK(model.model().a.tensor()[0].item<double>() == before[0]);
  }
  TEST_CASE("ranks with different groups or schedules are refused") {
    const auto run = [](int difference) {
      try {
        Threads::run(2, [&](Threads topology) {
          const bool odd = topology.rank() == 1;
          auto model = placed(driven(), topology);
          Optimizer step(model, Sgd{},
                         {.groups = {{.pattern = odd && difference == 0 ? "b" : "a",
                                      .learning_rate_factor = odd && difference == 1 ? 2. : 1.,
                                      .schedule = RampSchedule{.steps = odd && difference == 2 ? 3 : 2}}}});
          one_step(model, step);
          one_step(model, step);
        });
      } catch (const ConfigError& error) {
        return std::string(error.what());
      }
      return std::string();
    };
    CHECK(run(0).find("rank 0 has 'group a times 1' and rank 1 has 'group b times 1'") != std::string::npos);
    CHECK(run(1).find("rank 0 has 'group a times 1' and rank 1 has 'group a times 2'") != std::string::npos);
    INFO(run(2));
    CHECK(run(2).find("Optimizer: step 2: ranks differ: rank 0 has 'learning rate factor 0.5 of group 'a'' and rank 1 has 'learning rate "
                      "factor 0.33") != std::string::npos);
    CHECK(run(3).empty());
    CHECK_THROWS_WITH_AS(Threads::run(2,
                                      [](Threads topology) {
                                        const bool odd = topology.rank() == 1;
                                        auto model = placed(driven(), topology);
                                        Optimizer step(model, Sgd{},
                                                       {.groups = {{.pattern = "a", .schedule = ConstantSchedule{odd ? 2. : .5}},
                                                                   {.pattern = "b", .schedule = ConstantSchedule{odd ? .5 : 2.}}}});
                                        one_step(model, step);
                                      }),
                         doctest::Contains("'learning rate factor 0.5 of group 'a'' and rank 1 has 'learning rate factor 2 of group 'a''"),
                         ConfigError);
  }
}

}  // namespace rookery
