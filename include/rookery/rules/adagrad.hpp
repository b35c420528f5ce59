// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Adagrad: m += g^2, w -= lr * g / (sqrt(m) + eps), per weight. Weight decay adds wd * w to g first.
//
// Duchi, Hazan and Singer 2011. Answers to FBGEMM's EXACT_ADAGRAD (which has no weight decay) and torch.optim.Adagrad.
// Include cost: none.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/square_roots.hpp>

namespace rookery {

/// Adagrad with one accumulator a weight.
struct Adagrad {
  double learning_rate = 0.01;
  double eps = 1e-8;
  double weight_decay = 0;
  double initial_accumulator_value = 0;

  static constexpr std::string_view name = "adagrad";
  static constexpr std::array state{StateSlot{"momentum1", StateShape::element}};
  static constexpr int row_sums = 0;

  double initial_state(std::size_t) const { return initial_accumulator_value; }
  template <class Number>
  [[gnu::always_inline]] void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>*) const {
    const auto rate = static_cast<Number>(context.rate * learning_rate), epsilon = static_cast<Number>(eps);
    const auto decay = static_cast<Number>(weight_decay);
    Number* sum = row.state[0];
    Number roots[detail::roots_at_once<Number>], gradients[detail::roots_at_once<Number>];
    for (std::int64_t begin = 0, end = 0; begin < row.dim; begin = end) {
      end = std::min(row.dim, begin + detail::roots_at_once<Number>);
      for (auto i = begin; i < end; ++i) {
        const Number gradient = row.gradient[i] + decay * row.weight[i];
        sum[i] += gradient * gradient;
        gradients[i - begin] = gradient;
      }
      detail::square_roots(sum + begin, end - begin, roots);
      for (auto i = begin; i < end; ++i) row.weight[i] -= rate * gradients[i - begin] / (roots[i - begin] + epsilon);
    }
  }
};

}  // namespace rookery
