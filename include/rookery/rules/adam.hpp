// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Adam: bias-corrected first and second moments per weight; AdamW: the same with decoupled weight decay.
//
// Kingma and Ba 2015, Loshchilov and Hutter 2019. Answer to torch.optim.Adam, whose weight decay adds wd * w to g, and to
// torch.optim.AdamW and FBGEMM's ADAM, which multiply w by 1 - lr * wd. The bias correction counts optimizer steps, never forward
// passes; rules/row_counted.hpp makes it count a row's own. A row without ids in a step keeps its moments.  Include cost: none.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/square_roots.hpp>

namespace rookery {

namespace detail {

/// What moments are multiplied with at a step: the first, and the square root of the second.
template <class Number> struct BiasCorrection {
  RealOf<Number> first, root;

  template <class Rule> BiasCorrection(const Rule& rule, const StepContextOf<Number>& context) {
    using std::pow, std::sqrt;
    const auto step = static_cast<RealOf<Number>>(context.step);
    first = 1 / (1 - pow(rule.beta1, step));
    root = 1 / sqrt(1 - pow(rule.beta2, step));
  }
};

/// The decays of moments in a table's number type; `rest` is 1 - beta, taken before rounding.
template <class Number> struct MomentDecay {
  Number b1, b2, rest1, rest2;
  template <class Rule>
  explicit MomentDecay(const Rule& rule)
      : b1(static_cast<Number>(rule.beta1)), b2(static_cast<Number>(rule.beta2)), rest1(static_cast<Number>(1 - rule.beta1)),
        rest2(static_cast<Number>(1 - rule.beta2)) {}
};

/// A step of Adam: weights are multiplied by `kept` first, and gradients get `coupled` times the weight.
template <class Rule, class Number>
[[gnu::always_inline]] inline void adam_row(const Rule& rule, const Row<Number>& row, const StepContextOf<Number>& context, double coupled,
                                            double kept) {
  const BiasCorrection<Number> correction(rule, context);
  const MomentDecay<Number> decay(rule);
  const auto rate = static_cast<Number>(context.rate * rule.learning_rate * correction.first);
  const auto root = static_cast<Number>(correction.root), epsilon = static_cast<Number>(rule.eps);
  const auto pull = static_cast<Number>(coupled), keep = static_cast<Number>(kept);
  Number *first = row.state[0], *second = row.state[1];
  Number roots[roots_at_once<Number>];
  for (std::int64_t begin = 0, end = 0; begin < row.dim; begin = end) {
    end = std::min(row.dim, begin + roots_at_once<Number>);
    for (auto i = begin; i < end; ++i) {
      const Number gradient = row.gradient[i] + pull * row.weight[i];
      first[i] = decay.b1 * first[i] + decay.rest1 * gradient;
      second[i] = decay.b2 * second[i] + decay.rest2 * gradient * gradient;
    }
    square_roots(second + begin, end - begin, roots);
    for (auto i = begin; i < end; ++i)
      row.weight[i] = keep * row.weight[i] - rate * first[i] / (roots[i - begin] * root + epsilon);
  }
}

inline constexpr std::array adam_state{StateSlot{"exp_avg", StateShape::element}, StateSlot{"exp_avg_sq", StateShape::element}};

}  // namespace detail

/// Adam with two moments a weight, from 0. Weight decay adds wd * w to the gradient.
struct Adam {
  double learning_rate = 0.001;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;

  static constexpr std::string_view name = "adam";
  static constexpr auto state = detail::adam_state;
  static constexpr int row_sums = 0;

  template <class Number>
  [[gnu::always_inline]] void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>*) const {
    detail::adam_row(*this, row, context, weight_decay, 1);
  }
};

/// Adam whose weight decay multiplies the weight by 1 - lr * wd.
struct AdamW {
  double learning_rate = 0.001;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;

  static constexpr std::string_view name = "adamw";
  static constexpr auto state = detail::adam_state;
  static constexpr int row_sums = 0;

  template <class Number>
  [[gnu::always_inline]] void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>*) const {
    detail::adam_row(*this, row, context, 0, 1 - context.rate * learning_rate * weight_decay);
  }
};

}  // namespace rookery
