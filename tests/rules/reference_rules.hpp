// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Every rule of the library a second time, for one row in float64 with its state by name: the formulas as the papers and FBGEMM have them,
// and a draw of their hyper-parameters.

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
#include <rookery/rules/rules.hpp>
#include <rookery/rules/sgd.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "support/random_batches.hpp"

namespace rookery::cases {

using Vector = std::vector<double>;

inline double dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
inline double mean_square(const Vector& a) { return dot(a, a) / static_cast<double>(a.size()); }
inline Vector combine(double x, const Vector& a, double y, const Vector& b) {
  Vector sum(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) sum[i] = x * a[i] + y * b[i];
  return sum;
}
inline double ratio_of(double above, double below) { return above == 0 || below == 0 ? 1 : above / below; }

/// A row in float64 with its state; a slot of one number a row has one element.
struct ReferenceRow {
  Vector w;
  std::map<std::string_view, Vector> state;
  double t = 0, scale = 1;  // step, and what the schedule multiplies the rate with

  void step(const Sgd& rule, const Vector& g) { w = combine(1, w, -scale * rule.learning_rate, combine(1, g, rule.weight_decay, w)); }
  void step(const MomentumSgd& rule, const Vector& g0) {
    const auto g = combine(1, g0, rule.weight_decay, w);
    auto& buffer = state.at("momentum_buffer");
    buffer = combine(rule.momentum, buffer, 1, g);
    w = combine(1, w, -scale * rule.learning_rate, rule.nesterov ? combine(1, g, rule.momentum, buffer) : buffer);
  }
  void step(const Adagrad& rule, const Vector& g0) {
    const auto g = combine(1, g0, rule.weight_decay, w);
    auto& sum = state.at("momentum1");
    for (std::size_t i = 0; i < w.size(); ++i) {
      sum[i] += g[i] * g[i];
      w[i] -= scale * rule.learning_rate * g[i] / (std::sqrt(sum[i]) + rule.eps);
    }
  }
  void step(const RowwiseAdagrad& rule, const Vector& g) {
    const bool l2 = rule.weight_decay_mode == WeightDecayMode::l2;
    const auto h = l2 ? combine(1, g, rule.weight_decay, w) : g;
    if (!l2) w = combine(1 - scale * rule.learning_rate * rule.weight_decay, w, 0, g);
    auto& sum = state.at("momentum1")[0];
    sum += mean_square(h);
    w = combine(1, w, -scale * rule.learning_rate / (std::sqrt(sum) + rule.eps), h);
  }
  void step(const RowwiseAdagradWithCounter& rule, const Vector& g) {
    auto &sum = state.at("momentum1")[0], &last = state.at("prev_iter")[0], &count = state.at("row_counter")[0];
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

  /// m / (sqrt(v) + eps), both corrected; v is of each weight, or one of the row.
  template <class Rule> Vector direction(const Rule& rule, const Vector& g, bool rowwise = false) {
    auto &m = state.at("exp_avg"), &v = state.at("exp_avg_sq");
    m = combine(rule.beta1, m, 1 - rule.beta1, g);
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = rule.beta2 * v[i] + (1 - rule.beta2) * (rowwise ? mean_square(g) : g[i] * g[i]);
    auto d = combine(1 / (1 - std::pow(rule.beta1, t)), m, 0, g);
    for (std::size_t i = 0; i < d.size(); ++i) d[i] /= std::sqrt(v[rowwise ? 0 : i] / (1 - std::pow(rule.beta2, t))) + rule.eps;
    return d;
  }
  void step(const Adam& rule, const Vector& g) {
    w = combine(1, w, -scale * rule.learning_rate, direction(rule, combine(1, g, rule.weight_decay, w)));
  }
  void step(const AdamW& rule, const Vector& g) {
    w = combine(1, w, -scale * rule.learning_rate, combine(1, direction(rule, g), rule.weight_decay, w));
  }
  void step(const PartialRowwiseAdam& rule, const Vector& g) {
    w = combine(1, w, -scale * rule.learning_rate, combine(1, direction(rule, g, true), rule.weight_decay, w));
  }
  template <class Rule> void lamb(const Rule& rule, const Vector& g, bool rowwise) {
    const auto r = combine(1, direction(rule, g, rowwise), rule.weight_decay, w);
    w = combine(1, w, -scale * rule.learning_rate * ratio_of(std::sqrt(dot(w, w)), std::sqrt(dot(r, r))), r);
  }
  void step(const Lamb& rule, const Vector& g) { lamb(rule, g, false); }
  void step(const PartialRowwiseLamb& rule, const Vector& g) { lamb(rule, g, true); }
  void step(const LarsSgd& rule, const Vector& g) {
    const double norm = std::sqrt(dot(w, w)), below = std::sqrt(dot(g, g)) + rule.weight_decay * norm;
    const double rate = scale * rule.learning_rate * rule.eta * ratio_of(norm, below);
    auto& buffer = state.at("momentum1");
    buffer = combine(rule.momentum, buffer, rate, combine(1, g, rule.weight_decay, w));
    w = combine(1, w, -1, buffer);
  }
  void step(const NoUpdate&, const Vector&) {}
  template <class Inner> void step(const RowCounted<Inner>& rule, const Vector& g) {
    const double global = t;
    t = ++state.at("row_steps")[0];
    step(rule.rule, g);
    t = global;
  }
};

/// Every rule of the library, and those that go around others.
using LibraryRules =
    Rules<Sgd, MomentumSgd, Adagrad, RowwiseAdagrad, RowwiseAdagradWithCounter, MaxNorm<RowwiseAdagrad>, MaxNorm<RowwiseAdagradWithCounter>,
          Adam, AdamW, PartialRowwiseAdam, Lamb, PartialRowwiseLamb, LarsSgd, NoUpdate, RowCounted<Adam>, RowCounted<Lamb>>;
inline constexpr int library_rules = 16;

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

}  // namespace rookery::cases
