// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every rule against a float64 reference on random rows, whole and with columns split, and against torch.optim's own numbers.
#include <rookery/rules/rules.hpp>

#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/lars_sgd.hpp>
#include <rookery/rules/max_norm.hpp>
#include <rookery/rules/none.hpp>
#include <rookery/rules/partial_rowwise_adam.hpp>
#include <rookery/rules/row_counted.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/rowwise_adagrad_with_counter.hpp>
#include <rookery/rules/sgd.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

using Vector = std::vector<double>;

double dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double mean_square(const Vector& a) { return dot(a, a) / static_cast<double>(a.size()); }
Vector combine(double x, const Vector& a, double y, const Vector& b) {
  Vector sum(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) sum[i] = x * a[i] + y * b[i];
  return sum;
}
double ratio_of(double above, double below) { return above == 0 || below == 0 ? 1 : above / below; }

/// A row in float64 with its state; a slot of one number a row has one element. The formulas as the papers and FBGEMM have them.
struct Reference {
  Vector w;
  std::vector<Vector> state;
  double t = 0, scale = 1;  // step, and what the schedule multiplies the rate with

  void step(const Sgd& rule, const Vector& g) { w = combine(1, w, -scale * rule.learning_rate, combine(1, g, rule.weight_decay, w)); }
  void step(const MomentumSgd& rule, const Vector& g0) {
    const auto g = combine(1, g0, rule.weight_decay, w);
    state[0] = combine(rule.momentum, state[0], 1, g);
    w = combine(1, w, -scale * rule.learning_rate, rule.nesterov ? combine(1, g, rule.momentum, state[0]) : state[0]);
  }
  void step(const Adagrad& rule, const Vector& g0) {
    const auto g = combine(1, g0, rule.weight_decay, w);
    for (std::size_t i = 0; i < w.size(); ++i) {
      state[0][i] += g[i] * g[i];
      w[i] -= scale * rule.learning_rate * g[i] / (std::sqrt(state[0][i]) + rule.eps);
    }
  }
  void step(const RowwiseAdagrad& rule, const Vector& g) {
    const bool l2 = rule.weight_decay_mode == WeightDecayMode::l2;
    const auto h = l2 ? combine(1, g, rule.weight_decay, w) : g;
    if (!l2) w = combine(1 - scale * rule.learning_rate * rule.weight_decay, w, 0, g);
    state[0][0] += mean_square(h);
    w = combine(1, w, -scale * rule.learning_rate / (std::sqrt(state[0][0]) + rule.eps), h);
  }
  void step(const RowwiseAdagradWithCounter& rule, const Vector& g) {
    auto &sum = state[0][0], &last = state[1][0], &count = state[2][0];
    const double elapsed = last == 0 ? 1 : t - last, half_life = static_cast<double>(rule.counter_halflife);
    count = half_life > 0 ? 1 + std::pow(.5, elapsed / half_life) * count : half_life == 0 ? 1 : count + 1;
    last = t;
    const bool l2 = rule.weight_decay_mode == WeightDecayMode::l2;
    sum += mean_square(l2 ? combine(1, g, rule.weight_decay, w) : g);
    const double plain = scale * rule.learning_rate / (std::sqrt(sum) + rule.eps);
    double rate = plain, kept = 1;
    if (t > static_cast<double>(rule.adjustment_iter)) {
      using enum CounterLearningRateMode;
      const double power = std::pow((count + 1) / rule.max_counter, rule.adjustment_ub);
      if (count > rule.tail_id_threshold) {
        if (rule.learning_rate_mode == tail_id_lr_increase) rate *= std::max(1., std::min(10., 1 / power));
        if (rule.learning_rate_mode == tail_id_lr_decrease) rate *= std::min(1., std::max(.1, power));
        if (rule.learning_rate_mode == counter_sgd) rate = scale * rule.learning_rate / (std::sqrt(rule.adjustment_ub * count) + rule.eps);
      }
      kept -= (half_life > 0 ? half_life / count : 1) * rule.weight_decay * (l2 ? plain : scale * rule.learning_rate);
    }
    w = combine(kept, w, -rate, g);
  }
  template <class Inner> void step(const MaxNorm<Inner>& rule, const Vector& g) {
    step(rule.rule, g);
    const double norm = std::sqrt(dot(w, w));
    if (norm > rule.max_norm) w = combine(rule.max_norm / norm, w, 0, g);
  }

  template <class Rule> Vector corrected_first(const Rule& rule, const Vector& g) {
    state[0] = combine(rule.beta1, state[0], 1 - rule.beta1, g);
    return combine(1 / (1 - std::pow(rule.beta1, t)), state[0], 0, g);
  }
  /// m / (sqrt(v) + eps); v of the row or of each weight, as the state says.
  template <class Rule> Vector direction(const Rule& rule, const Vector& g) {
    auto d = corrected_first(rule, g);
    for (std::size_t i = 0; i < state[1].size(); ++i)
      state[1][i] = rule.beta2 * state[1][i] + (1 - rule.beta2) * (Rule::state[1].shape == StateShape::row ? mean_square(g) : g[i] * g[i]);
    for (std::size_t i = 0; i < d.size(); ++i)
      d[i] /= std::sqrt(state[1][Rule::state[1].shape == StateShape::row ? 0 : i] / (1 - std::pow(rule.beta2, t))) + rule.eps;
    return d;
  }
  void step(const Adam& rule, const Vector& g) {
    w = combine(1, w, -scale * rule.learning_rate, direction(rule, combine(1, g, rule.weight_decay, w)));
  }
  void step(const AdamW& rule, const Vector& g) {
    w = combine(1, w, -scale * rule.learning_rate, combine(1, direction(rule, g), rule.weight_decay, w));
  }
  void step(const PartialRowwiseAdam& rule, const Vector& g) {
    w = combine(1, w, -scale * rule.learning_rate, combine(1, direction(rule, g), rule.weight_decay, w));
  }
  template <class Rule> void lamb(const Rule& rule, const Vector& g) {
    const auto r = combine(1, direction(rule, g), rule.weight_decay, w);
    w = combine(1, w, -scale * rule.learning_rate * ratio_of(std::sqrt(dot(w, w)), std::sqrt(dot(r, r))), r);
  }
  void step(const Lamb& rule, const Vector& g) { lamb(rule, g); }
  void step(const PartialRowwiseLamb& rule, const Vector& g) { lamb(rule, g); }
  void step(const LarsSgd& rule, const Vector& g) {
    const double norm = std::sqrt(dot(w, w)), below = std::sqrt(dot(g, g)) + rule.weight_decay * norm;
    const double rate = scale * rule.learning_rate * rule.eta * ratio_of(norm, below);
    state[0] = combine(rule.momentum, state[0], rate, combine(1, g, rule.weight_decay, w));
    w = combine(1, w, -1, state[0]);
  }
  void step(const NoUpdate&, const Vector&) {}
  template <class Inner> void step(const RowCounted<Inner>& rule, const Vector& g) {
    const double global = t;
    t = ++state.back()[0];
    step(rule.rule, g);
    t = global;
  }
};

/// A row in a table's number type, in one piece or in several, each with its own state as on a rank of its own.
template <class Rule, class Number> struct Pieces {
  struct Piece {
    std::vector<Number> weight;
    std::vector<std::vector<Number>> state;
  };
  std::vector<Piece> pieces;
  std::int64_t dim = 0;

  Pieces(const Rule& rule, const Vector& w, const std::vector<std::size_t>& cuts) : dim(static_cast<std::int64_t>(w.size())) {
    for (std::size_t p = 0; p + 1 < cuts.size(); ++p) {
      Piece piece{{w.begin() + static_cast<std::ptrdiff_t>(cuts[p]), w.begin() + static_cast<std::ptrdiff_t>(cuts[p + 1])}, {}};
      for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
        piece.state.emplace_back(Rule::state[slot].shape == StateShape::row ? 1 : piece.weight.size(),
                                 static_cast<Number>(initial_state(rule, slot)));
      pieces.push_back(std::move(piece));
    }
  }
  void step(const Rule& rule, const std::vector<Number>& gradient, const StepContext& context) {
    std::array<double, static_cast<std::size_t>(Rule::row_sums) + 1> total{}, one{};
    const auto for_each = [&](auto&& fn) {
      std::size_t column = 0;
      for (auto& piece : pieces) {
        std::array<Number*, Rule::state.size() + 1> state{};
        for (std::size_t slot = 0; slot < piece.state.size(); ++slot) state[slot] = piece.state[slot].data();
        fn(Row<Number>{piece.weight.data(), gradient.data() + column, state.data(), static_cast<std::int64_t>(piece.weight.size()), dim});
        column += piece.weight.size();
      }
    };
    if constexpr (Rule::row_sums > 0)
      for_each([&](const Row<Number>& row) {
        rule.sum_row(row, context, one.data());
        for (std::size_t i = 0; i < total.size() - 1; ++i) total[i] += one[i];
      });
    for_each([&](const Row<Number>& row) { rule.update(row, context, total.data()); });
  }
  Vector weight() const {
    Vector whole;
    for (const auto& piece : pieces) whole.insert(whole.end(), piece.weight.begin(), piece.weight.end());
    return whole;
  }
  /// A slot of the whole row; of one number a row, the first piece's, which all pieces have.
  Vector state(std::size_t slot) const {
    Vector whole;
    for (const auto& piece : pieces) {
      if (Rule::state[slot].shape == StateShape::row && !whole.empty()) {
        CHECK(whole[0] == static_cast<double>(piece.state[slot][0]));
        continue;
      }
      whole.insert(whole.end(), piece.state[slot].begin(), piece.state[slot].end());
    }
    return whole;
  }
};

double gap_of(const Vector& found, const Vector& wanted) {
  REQUIRE(found.size() == wanted.size());
  double gap = 0, largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    gap = std::max(gap, std::abs(found[i] - wanted[i]));
    largest = std::max({largest, std::abs(found[i]), std::abs(wanted[i])});
  }
  return gap == 0 ? 0 : gap / largest;
}

/// The largest difference of weights and state after steps of a rule on a random row, over the largest value of each.
template <class Number, class Rule> double trial(Draw& draw, const Rule& rule) {
  const auto dim = static_cast<std::size_t>(draw.chance(.2)   ? draw.integer(1, 3)
                                            : draw.chance(.1) ? draw.integer(100, 300)
                                                              : draw.integer(4, 40));
  std::vector<std::size_t> cuts{0, dim};
  while (draw.chance(.5)) cuts.push_back(static_cast<std::size_t>(draw.integer(0, static_cast<std::int64_t>(dim))));
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  Vector w(dim);
  if (!draw.chance(.1))  // else a row of zeros
    for (auto& one : w) one = static_cast<double>(static_cast<Number>(draw.real(-1, 1)));
  Reference reference{w, {}};
  for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
    reference.state.emplace_back(Rule::state[slot].shape == StateShape::row ? 1 : dim, initial_state(rule, slot));
  Pieces<Rule, Number> pieces(rule, w, cuts);
  const auto steps = draw.integer(1, 4);
  for (std::int64_t step = 0, t = 0; step < steps; ++step) {
    t += draw.integer(1, 5);  // steps that do not reach the row lie between
    std::vector<Number> gradient(dim);
    for (auto& one : gradient) one = static_cast<Number>(draw.real(-1, 1));
    const double scale = draw.chance(.5) ? 1 : .25;
    reference.t = static_cast<double>(t);
    reference.scale = scale;
    reference.step(rule, Vector(gradient.begin(), gradient.end()));
    pieces.step(rule, gradient, {.step = t, .rate = scale});
  }
  double gap = gap_of(pieces.weight(), reference.w);
  for (std::size_t slot = 0; slot < Rule::state.size(); ++slot) gap = std::max(gap, gap_of(pieces.state(slot), reference.state[slot]));
  return gap;
}

/// Calls `fn(rule)` for every rule, with hyper-parameters drawn. Large eps keep directions of tiny gradients steady in float32.
template <class Fn> void for_each_rule(Draw& draw, Fn&& fn) {
  const double rate = draw.real(.01, .2), decay = draw.chance(.3) ? 0 : draw.real(.001, .1), eps = 1e-2;
  const auto mode = draw.chance(.5) ? WeightDecayMode::l2 : WeightDecayMode::decouple;
  const double start = draw.chance(.5) ? 0 : .1, beta1 = draw.real(.5, .95), beta2 = draw.real(.9, .999);
  fn(Sgd{rate, decay});
  fn(MomentumSgd{rate, beta1, draw.chance(.5), decay});
  fn(Adagrad{rate, eps, decay, start});
  const RowwiseAdagrad rowwise{rate, eps, decay, mode, start};
  const RowwiseAdagradWithCounter counter{.learning_rate = rate,
                                          .eps = eps,
                                          .weight_decay = decay / 10,
                                          .weight_decay_mode = mode,
                                          .counter_halflife = draw.integer(-1, 3),
                                          .adjustment_iter = draw.integer(-1, 5),
                                          .learning_rate_mode = static_cast<CounterLearningRateMode>(draw.integer(0, 3)),
                                          .adjustment_ub = draw.real(.5, 1.5),
                                          .max_counter = draw.real(1, 4),
                                          .tail_id_threshold = draw.real(0, 3),
                                          .initial_accumulator_value = start};
  const Adam adam{rate, beta1, beta2, eps, decay};
  const Lamb lamb{rate, beta1, beta2, eps, decay};
  fn(rowwise);
  fn(counter);
  fn(MaxNorm{rowwise, draw.real(.5, 4)});
  fn(MaxNorm{counter, draw.real(.5, 4)});
  fn(adam);
  fn(AdamW{rate, beta1, beta2, eps, decay});
  fn(PartialRowwiseAdam{rate, beta1, beta2, eps, decay});
  fn(lamb);
  fn(PartialRowwiseLamb{rate, beta1, beta2, eps, decay});
  fn(LarsSgd{rate, beta1, .1, decay});
  fn(NoUpdate{});
  fn(RowCounted{adam});
  fn(RowCounted{lamb});
}

/// Weights after four steps from [1, -2, .5, 3, 0] with gradients [.5, -.25, 1, -2, .125] * [1, -1, .5, 2][step].
template <class Rule> Vector four_steps(const Rule& rule) {
  Pieces<Rule, double> row(rule, {1, -2, .5, 3, 0}, {0, 5});
  const std::array<double, 4> factors{1, -1, .5, 2};
  for (std::size_t step = 0; step < factors.size(); ++step) {
    Vector gradient{.5, -.25, 1, -2, .125};
    for (auto& one : gradient) one *= factors[step];
    row.step(rule, gradient, {.step = static_cast<std::int64_t>(step) + 1});
  }
  return row.weight();
}

}  // namespace

TEST_SUITE("rules/differential") {
  TEST_CASE("every rule agrees with a float64 reference on 2,000 random rows, whole and with columns split") {
    std::map<std::string, double> worst_double, worst_float;
    int rows = 0;
    for (std::uint64_t seed = 0; seed < 2000; ++seed) {
      Draw draw(seed);
      for_each_rule(draw, [&]<class Rule>(const Rule& rule) {
        auto &in_double = worst_double[std::string(Rule::name)], &in_float = worst_float[std::string(Rule::name)];
        in_double = std::max(in_double, trial<double>(draw, rule));
        in_float = std::max(in_float, trial<float>(draw, rule));
      });
      ++rows;
    }
    CHECK(rows == 2000);
    CHECK(worst_double.size() == 16);
    for (const auto& one : worst_double) {
      CAPTURE(one.first);
      CHECK(one.second <= 1e-11);
    }
    for (const auto& one : worst_float) {
      CAPTURE(one.first);
      const bool of_adam = one.first.find("adam") != std::string::npos || one.first.find("lamb") != std::string::npos;
      CHECK(one.second <= (of_adam ? 1e-3 : 4e-5));
    }
  }

  TEST_CASE("rules equal torch.optim") {
    // torch 2.11.0 in float64: w.grad = factor * gradient; optimizer.step(), four times, then repr(w).
    const auto check = [](const Vector& found, const Vector& wanted) { CHECK(gap_of(found, wanted) <= 1e-14); };
    check(four_steps(Sgd{.learning_rate = .1, .weight_decay = .02}),
          {0.867173568416, -1.9216227362320002, 0.24631118480799996, 3.4754735024479997,
           -0.031212599900000002});  // SGD(lr=.1, weight_decay=.02)
    check(four_steps(MomentumSgd{.learning_rate = .1, .momentum = .8}),
          {0.8293999999999999, -1.9147, 0.15879999999999997, 3.6824000000000003, -0.04265000000000001});  // SGD(lr=.1, momentum=.8)
    check(four_steps(MomentumSgd{.learning_rate = .1, .momentum = .8, .nesterov = true, .weight_decay = .02}),
          {0.7184650902166017, -1.8277430195746431, -0.03158029403313922, 3.9791885199765247,
           -0.06513547319024});  // SGD(lr=.1, momentum=.8, nesterov=True, weight_decay=.02)
    check(four_steps(Adagrad{.learning_rate = .1, .eps = 1e-10}),
          {0.8573773448061659, -1.8573773448270101, 0.3573773447957436, 3.1426226552094674, -0.1426226551313008});  // Adagrad(lr=.1)
    check(four_steps(Adagrad{.learning_rate = .1, .eps = 1e-6, .weight_decay = .02, .initial_accumulator_value = .3}),
          {0.8823885085473963, -1.898618779186415, 0.3674079229273705, 3.134945285943032,
           -0.050859058026689156});  // Adagrad(lr=.1, eps=1e-6, weight_decay=.02, initial_accumulator_value=.3)
    check(four_steps(Adam{.learning_rate = .1}),
          {0.8326997586681725, -1.8326997618476504, 0.3326997570784336, 3.167300243716436, -0.16730023179339418});  // Adam(lr=.1)
    check(four_steps(Adam{.learning_rate = .1, .beta1 = .8, .beta2 = .95, .eps = 1e-6, .weight_decay = .02}),
          {0.8245181888026453, -1.7951279578030788, 0.33205112473073345, 3.157414553969745,
           -0.16275319483751283});  // Adam(lr=.1, betas=(.8, .95), eps=1e-6, weight_decay=.02)
    check(four_steps(AdamW{.learning_rate = .1}),
          {0.8290124062637729, -1.8250184054380636, 0.3310094066766276, 3.155011580120195, -0.16699358021735522});  // AdamW(lr=.1)
    check(four_steps(AdamW{.learning_rate = .1, .beta1 = .8, .beta2 = .95, .eps = 1e-6, .weight_decay = .2}),
          {0.7624815720517459, -1.6848500312184056, 0.3012973424679885, 2.9269912923239967,
           -0.1598856904516936});  // AdamW(lr=.1, betas=(.8, .95), eps=1e-6, weight_decay=.2)
  }
}

}  // namespace rookery
