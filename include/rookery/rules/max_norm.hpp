// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// MaxNorm: a rule that scales a row back to a largest norm after its update.
//
//   .optimizer = MaxNorm{RowwiseAdagrad{.learning_rate = .05}, 4}
//
// Answers to FBGEMM's max_norm, which rowwise Adagrad has there on GPUs; differs: the norm is that of the whole row under a column split
// too, and only tables that ask for it pay for its sums.  Include cost: none.

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>

namespace rookery {

/// `Inner`, whose `advance` gives a LinearStep, with a bound on the norm of the rows that it updates.
template <concepts::Rule Inner> struct MaxNorm {
  template <class Number>
  static constexpr bool advances =
      requires(const Inner& rule, const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) {
        { rule.advance(row, context, sums) } -> std::same_as<LinearStepOf<RealOf<Number>>>;
      };
  static_assert(
      advances<double>,
      "rookery::MaxNorm: the rule has no `advance` that gives a LinearStep; use RowwiseAdagrad or RowwiseAdagradWithCounter; "
      "see docs/concepts.md#rule");

  Inner rule{};
  double max_norm = 1;

  static constexpr auto text = detail::prefixed_name<Inner>("max_norm_");
  static constexpr std::string_view name{text.data(), text.size()};
  static constexpr auto state = Inner::state;
  static constexpr int row_sums = Inner::row_sums + 3;

  double initial_state(std::size_t slot) const { return rookery::initial_state(rule, slot); }
  /// The rule's own sums, then those of g^2, w * g and w^2, from which the new norm follows.
  template <class Number>
    requires advances<Number>
  void sum_row(const Row<Number>& row, const StepContextOf<Number>& context, RealOf<Number>* sums) const {
    using Real = RealOf<Number>;
    if constexpr (Inner::row_sums > 0) rule.sum_row(row, context, sums);
    Real squares = 0, products = 0, weights = 0;
    for (std::int64_t i = 0; i < row.dim; ++i) {
      const auto weight = static_cast<Real>(row.weight[i]), gradient = static_cast<Real>(row.gradient[i]);
      squares += gradient * gradient;
      products += weight * gradient;
      weights += weight * weight;
    }
    sums += Inner::row_sums;
    sums[0] = sum_of_columns(squares);
    sums[1] = sum_of_columns(products);
    sums[2] = sum_of_columns(weights);
  }
  template <class Number>
    requires advances<Number>
  void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    using std::sqrt;
    using Real = RealOf<Number>;
    auto [of_weight, of_gradient] = rule.advance(row, context, sums);
    sums += Inner::row_sums;
    const Real squares = of_weight * of_weight * sums[2] - 2 * of_weight * of_gradient * sums[1] + of_gradient * of_gradient * sums[0];
    const Real scale = select(squares > max_norm * max_norm, max_norm / sqrt(squares), Real(1));
    LinearStepOf<Real>{scale * of_weight, scale * of_gradient}.apply(row);
  }
};

template <class Inner> MaxNorm(Inner, double) -> MaxNorm<Inner>;

}  // namespace rookery
