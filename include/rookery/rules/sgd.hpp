// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sgd: w -= lr * g, and MomentumSgd: b = momentum * b + g, w -= lr * b. Weight decay adds wd * w to g first.
//
// Answers to FBGEMM's EXACT_SGD and to torch.optim.SGD, without and with momentum (dampening 0).  Include cost: none.

#include <array>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// Stochastic gradient descent, without state.
struct Sgd {
  double learning_rate = 0.01;
  double weight_decay = 0;

  static constexpr std::string_view name = "sgd";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;

  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>*) const {
    const auto rate = static_cast<Number>(context.rate * learning_rate), decay = static_cast<Number>(weight_decay);
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= rate * (row.gradient[i] + decay * row.weight[i]);
  }
};

/// Stochastic gradient descent with a buffer a weight, from 0. Nesterov's form steps along g + momentum * b.
/// A table's row without ids keeps its buffer, so its momentum waits for the next step that reaches it.
struct MomentumSgd {
  double learning_rate = 0.01;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;

  static constexpr std::string_view name = "momentum_sgd";
  static constexpr std::array state{StateSlot{"momentum_buffer", StateShape::element}};
  static constexpr int row_sums = 0;

  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>*) const {
    const auto rate = static_cast<Number>(context.rate * learning_rate), decay = static_cast<Number>(weight_decay);
    const auto kept = static_cast<Number>(momentum);
    Number* buffer = row.state[0];
    for (std::int64_t i = 0; i < row.dim; ++i) {
      const Number gradient = row.gradient[i] + decay * row.weight[i];
      buffer[i] = kept * buffer[i] + gradient;
      row.weight[i] -= rate * (nesterov ? gradient + kept * buffer[i] : buffer[i]);
    }
  }
};

}  // namespace rookery
