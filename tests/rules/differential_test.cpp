// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every rule against a float64 reference on random rows, whole and with columns split, and against torch.optim's own numbers.
#include <rookery/rules/rules.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "rules/reference_rules.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

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
  ReferenceRow reference{w, {}};
  for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
    reference.state[Rule::state[slot].name] = Vector(Rule::state[slot].shape == StateShape::row ? 1 : dim, initial_state(rule, slot));
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
  for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
    gap = std::max(gap, gap_of(pieces.state(slot), reference.state.at(Rule::state[slot].name)));
  return gap;
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
    CHECK(worst_double.size() == library_rules);
    for (const auto& one : worst_double) {
      CAPTURE(one.first);
      CHECK(one.second <= tolerance(at::kDouble));
    }
    for (const auto& one : worst_float) {
      CAPTURE(one.first);
      CHECK(one.second <= tolerance(at::kFloat, one.first, 4));
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
