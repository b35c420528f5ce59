// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Dense optimizer: the same rules as the tables', applied to parameters.
//
// A parameter that no rank's loss reached is left alone, state included. How gradients are summed over ranks is in gradient_buckets.hpp.
// Answers to torch.optim.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/freed_memory.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/core/squares.hpp>
#include <rookery/kernels/device/row_update.hpp>

namespace rookery {

namespace detail {

/// Sum of squares of a tensor of any device, [] float64 there; nothing waits for it.
inline at::Tensor squares_there(const at::Tensor& tensor) { return ops::norm(tensor).square(); }

}  // namespace detail

/// Sum of squares of a contiguous tensor in float64, the same for any number of threads; not finite when an element is not.
inline double sum_of_squares(const at::Tensor& tensor) {
  if (!tensor.is_cpu()) return detail::squares_there(tensor).item<double>();
  constexpr std::int64_t block = 512;
  const auto blocks = (tensor.numel() + block - 1) / block;
  std::vector<double> sums(static_cast<std::size_t>(blocks));
  for_floating(tensor.scalar_type(), [&](auto zero) {
    const auto* values = tensor.const_data_ptr<decltype(zero)>();
    parallel(blocks, 64, [&](std::int64_t begin, std::int64_t end) {
      for (auto b = begin; b < end; ++b) {
        const auto first = b * block;
        sums[static_cast<std::size_t>(b)] = detail::squared_norm<double>(values + first, std::min(block, tensor.numel() - first));
      }
    });
  });
  double total = 0;
  for (const auto sum : sums) total += sum;
  return total;
}

/// One dense parameter with its optimizer state.
struct DenseParameter {
  std::string name;
  Parameter* parameter = nullptr;
  std::vector<at::Tensor> state{};       // per slot, of the parameter's shape
  std::int64_t steps = 0;                // updates so far: its own bias correction, as in torch
  at::Tensor gradient{};                 // of this step, summed over ranks; undefined when no loss reached it
  std::size_t group = 0;                 // which of the step's rates it takes
  std::size_t bucket = 0;                // the message that its gradient travels in
  std::int64_t offset = 0;               // and where
  bool is_packed = false;                // whether it is there
};

/// On one process, the gradients that backward left are those of the step, used in place.
inline void take_gradients(std::span<DenseParameter> parameters) {
  for (auto& one : parameters) {
    const auto& gradient = one.parameter->tensor().grad();
    one.gradient = gradient.defined() ? gradient.contiguous() : at::Tensor{};
  }
}

/// The dense parameters of a model under one rule. The rule has per-weight state only.
template <concepts::ElementwiseRule Rule> class DenseOptimizer {
 public:
  explicit DenseOptimizer(Rule rule) : rule_(rule) { keep_freed_memory(); }

  /// Names differ: state goes by them, and a placed model has seen to it.
  void add(std::string name, Parameter& parameter) {
    if constexpr (!concepts::DeviceRule<Rule>)
      check<ConfigError>(parameter.tensor().is_cpu(), "Optimizer: rule '", Rule::name, "' of dense parameters runs on the host only, and '",
                         name, "' is on a device; write its update as docs/concepts.md#rule says");
    DenseParameter one{std::move(name), &parameter};
    for (std::size_t slot = 0; slot < Rule::state.size(); ++slot) {
      one.state.push_back(ops::zeros(parameter.shape(), parameter.tensor().options().requires_grad(false)));
      if (const double start = initial_state(rule_, slot); start != 0) one.state.back().fill_(start);
    }
    parameters_.push_back(std::move(one));
  }

  const Rule& rule() const { return rule_; }
  std::vector<DenseParameter>& parameters() { return parameters_; }
  const std::vector<DenseParameter>& parameters() const { return parameters_; }

  /// Multiplies every gradient of this step by a number, or by one [] that a device has.
  template <class Factor> void scale(const Factor& factor) {
    for (auto& one : parameters_)
      if (one.gradient.defined()) one.gradient.mul_(factor);
  }

  /// Brings every element of every gradient of this step within [-limit, limit].
  void clamp(double limit) {
    for (auto& one : parameters_)
      if (one.gradient.defined()) one.gradient.clamp_(-limit, limit);
  }

  /// Applies the rule to every parameter that has a gradient; the rate of its group multiplies its learning rate. On a device only where
  /// `valid` [] holds, if it is given. On the host gradients are multiplied by `factor` on the way, and left as they are.
  /// Cost: one pass over gradients, weights and state, all parameters in one parallel region.
  void update(std::span<const double> rates, const at::Tensor& valid = {}, double factor = 1);
  /// Takes back that the parameters of which `reached` is not 0 were updated.
  void uncount(std::span<const char> reached) {
    for (std::size_t p = 0; p < parameters_.size(); ++p) parameters_[p].steps -= reached[p];
  }

  /// Forgets the gradients of this step.
  void clear() {
    for (auto& one : parameters_) {
      one.gradient = at::Tensor{};
      one.parameter->tensor().mutable_grad() = at::Tensor{};
    }
  }

 private:
  Rule rule_;
  std::vector<DenseParameter> parameters_;
};

template <concepts::ElementwiseRule Rule>
void DenseOptimizer<Rule>::update(std::span<const double> rates, const at::Tensor& valid, double factor) {
  struct Piece {
    const DenseParameter* of;
    StepContext context;
    std::int64_t begin;
  };
  constexpr std::int64_t most = 4096;                          // elements of a piece
  std::vector<Piece> pieces;
  for (auto& one : parameters_) {
    if (!one.gradient.defined()) continue;
    const StepContext context{.step = ++one.steps, .rate = rates[one.group]};
    const auto& tensor = one.parameter->tensor();
    tensor.unsafeGetTensorImpl()->bump_version();              // a graph that saved the old values must not use the new ones
    if constexpr (concepts::DeviceRule<Rule>) {
      if (!tensor.is_cpu()) {
        kernels::update_rows(rule_, context, kernels::DeviceUpdateTask{.weight = tensor, .state = one.state, .gradients = one.gradient,
                                                                       .full_dim = tensor.numel(), .valid = valid});
        continue;
      }
    }
    for (std::int64_t begin = 0; begin < tensor.numel(); begin += most) pieces.push_back({&one, context, begin});
  }
  parallel(static_cast<std::int64_t>(pieces.size()), 2, [&](std::int64_t first, std::int64_t last) {
    for (auto p = first; p < last; ++p) {
      const auto& [of, context, begin] = pieces[static_cast<std::size_t>(p)];
      const auto& tensor = of->parameter->tensor();
      const auto count = std::min(most, tensor.numel() - begin);
      for_floating(tensor.scalar_type(), [&](auto zero) {
        using Number = decltype(zero);
        const auto* gradients = of->gradient.template const_data_ptr<Number>() + begin;
        std::array<Number, most> scaled;
        if (factor != 1) {
          for (std::int64_t i = 0; i < count; ++i) scaled[static_cast<std::size_t>(i)] = gradients[i] * static_cast<Number>(factor);
          gradients = scaled.data();
        }
        std::array<Number*, Rule::state.size() + 1> state{};
        for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
          state[slot] = of->state[slot].template mutable_data_ptr<Number>() + begin;
        auto* weights = tensor.template mutable_data_ptr<Number>() + begin;
        rule_.update(Row<Number>{weights, gradients, state.data(), count, tensor.numel()}, context, nullptr);
      });
    }
  });
}

}  // namespace rookery
