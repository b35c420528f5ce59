// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Lamb: r = m / (sqrt(v) + eps) + wd * w, with Adam's corrected moments, and w -= lr * (|w| / |r|) * r over the row.
// PartialRowwiseLamb: the same with one second moment a row, of mean(g^2).
//
// You et al. 2020. Answer to FBGEMM's LAMB and PARTIAL_ROWWISE_LAMB; differ: under a column split norms and mean are those of the whole
// row, and where |w| or |r| is 0 the ratio is 1, so that a row of zeros can start.  Include cost: none.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/partial_rowwise_adam.hpp>

namespace rookery {

namespace detail {

/// sqrt(above / below), 1 when one of them is 0.
template <class Real> Real norm_ratio(const Real& above, const Real& below) {
  using std::sqrt;
  return select(above > 0 && below > 0, sqrt(above / below), Real(1));
}

/// Lamb's moments of one weight, and the direction r that they give it.
template <class Number> struct LambDirection {
  MomentDecay<Number> decay;
  Number correct_first, correct_root, epsilon, pull;

  template <class Rule>
  LambDirection(const Rule& rule, const StepContextOf<Number>& context)
      : decay(rule), epsilon(static_cast<Number>(rule.eps)), pull(static_cast<Number>(rule.weight_decay)) {
    const BiasCorrection<Number> correction(rule, context);
    correct_first = static_cast<Number>(correction.first);
    correct_root = static_cast<Number>(correction.root);
  }
  /// Moves the moments on.
  Number operator()(Number& first, Number& second, const Number& gradient, const Number& weight) const {
    using std::sqrt;
    first = decay.b1 * first + decay.rest1 * gradient;
    second = decay.b2 * second + decay.rest2 * gradient * gradient;
    return first * correct_first / (sqrt(second) * correct_root + epsilon) + pull * weight;
  }
};

}  // namespace detail

/// Lamb with two moments a weight, from 0.
struct Lamb {
  double learning_rate = 0.001;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;

  static constexpr std::string_view name = "lamb";
  static constexpr auto state = detail::adam_state;
  static constexpr int row_sums = 2;

  /// Sums of w^2 and r^2.
  template <class Number> void sum_row(const Row<Number>& row, const StepContextOf<Number>& context, RealOf<Number>* sums) const {
    const detail::LambDirection<Number> direction(*this, context);
    RealOf<Number> weights = 0, directions = 0;
    for (std::int64_t i = 0; i < row.dim; ++i) {
      Number first = row.state[0][i], second = row.state[1][i];
      const auto weight = static_cast<RealOf<Number>>(row.weight[i]);
      const auto r = static_cast<RealOf<Number>>(direction(first, second, row.gradient[i], row.weight[i]));
      weights += weight * weight;
      directions += r * r;
    }
    sums[0] = sum_of_columns(weights);
    sums[1] = sum_of_columns(directions);
  }
  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    const detail::LambDirection<Number> direction(*this, context);
    const auto rate = static_cast<Number>(context.rate * learning_rate * detail::norm_ratio(sums[0], sums[1]));
    for (std::int64_t i = 0; i < row.dim; ++i)
      row.weight[i] -= rate * direction(row.state[0][i], row.state[1][i], row.gradient[i], row.weight[i]);
  }
};

/// Lamb with a first moment a weight and a second moment a row, from 0.
struct PartialRowwiseLamb {
  double learning_rate = 0.001;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;

  static constexpr std::string_view name = "partial_rowwise_lamb";
  static constexpr auto state = detail::partial_rowwise_state;
  static constexpr int row_sums = 4;

  /// Sums of g^2, m^2, m * w and w^2, with the new m: r = a * m + wd * w, and a needs the whole row's mean(g^2).
  template <class Number> void sum_row(const Row<Number>& row, const StepContextOf<Number>&, RealOf<Number>* sums) const {
    using Real = RealOf<Number>;
    const detail::MomentDecay<Number> decay(*this);
    std::fill_n(sums, 4, Real(0));
    for (std::int64_t i = 0; i < row.dim; ++i) {
      const auto gradient = static_cast<Real>(row.gradient[i]), weight = static_cast<Real>(row.weight[i]);
      const auto first = static_cast<Real>(decay.b1 * row.state[0][i] + decay.rest1 * row.gradient[i]);
      sums[0] += gradient * gradient;
      sums[1] += first * first;
      sums[2] += first * weight;
      sums[3] += weight * weight;
    }
    for (int i = 0; i < 4; ++i) sums[i] = sum_of_columns(sums[i]);
  }
  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    using Real = RealOf<Number>;
    const detail::BiasCorrection<Number> correction(*this, context);
    const detail::MomentDecay<Number> decay(*this);
    const Real a = correction.first / detail::partial_rowwise_root(*this, correction, decay, row, sums[0]);
    const Real directions = a * a * sums[1] + 2 * a * weight_decay * sums[2] + weight_decay * weight_decay * sums[3];
    const Real rate = context.rate * learning_rate * detail::norm_ratio(sums[3], directions);
    detail::step_along_first(row, decay, static_cast<Number>(rate * a), static_cast<Number>(1 - rate * weight_decay));
  }
};

}  // namespace rookery
