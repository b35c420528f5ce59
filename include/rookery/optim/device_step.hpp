// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A step on a device without waiting for it: whether the gradient is finite, its norm and its divisor stay there, and the factor that they
// make; the numbers follow to the host behind the step, where the next step reads them, with marks of the ranks whose part is not finite.
//
// A gradient that is not finite leaves every weight and state as it was all the same: where the device finds one, updates write back what
// they read. Answers to the found_inf of torch's GradScaler and of its capturable optimizers.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <rookery/core/operators.hpp>
#include <rookery/optim/dense.hpp>
#include <rookery/optim/step_norm.hpp>

namespace rookery::detail {

/// What a step on a device does to gradients, known there alone.
struct DeviceFactor {
  at::Tensor factor;                         // [] float64: the division and the clipping
  at::Tensor valid;                          // [] bool: whether all is finite
};

/// The numbers of a step: squares of each table's gradients and the normaliser, `there` [T + 1] over all ranks, and squares of each dense
/// gradient -> [T + 1 + gradients].
[[gnu::cold]] inline at::Tensor step_numbers(const at::Tensor& there, std::span<const DenseParameter> dense) {
  std::vector<at::Tensor> parts{there};
  for (const auto& one : dense)
    if (one.gradient.defined()) parts.push_back(squares_there(one.gradient).view({1}));
  return ops::cat(parts);
}

/// not_finite_here where gradients are on a device, [3 W] float64 there. Nothing waits for it.
[[gnu::cold]] inline at::Tensor not_finite_there(std::span<const DenseParameter> dense, std::span<const Capture> captures,
                                                 const Routing& routing, int world_size) {
  const auto options = at::TensorOptions(at::kDouble).device(routing.device);
  const auto none = ops::zeros({1}, options);
  std::vector<at::Tensor> values, gradients, numbers;
  const auto add = [](std::vector<at::Tensor>& all, const at::Tensor& one) {
    if (one.defined() && one.numel() > 0) all.push_back(one);
  };
  const auto norms = [&](const std::vector<at::Tensor>& all, double order = 2) { return all.empty() ? none : ops::norms(all, order); };
  const auto is_bad = [](const at::Tensor& all) { return all.isfinite().all().logical_not().view({1}); };
  for (const auto& capture : captures) {
    for (const auto* leaves : {&capture.leaves, &capture.slot_leaves})
      for (const auto& leaf : *leaves) {
        add(values, leaf);
        add(gradients, leaf.defined() ? leaf.grad() : leaf);
      }
    if (const auto& one = capture.normaliser; one.defined())
      numbers.push_back(one.is_cpu() ? ops::full({1}, one.item<double>(), options) : one.to(at::kDouble).view({1}));
  }
  auto came = none, sent = none;                                                             // [1]
  if (routing.exchange.forward_precision == CommType::fp16) came = is_bad(norms(values));
  if (routing.exchange.backward_precision == CommType::fp16)
    sent = norms(gradients, std::numeric_limits<double>::infinity()).max().gt(65504).view({1});
  for (const auto& one : dense) add(gradients, one.parameter->tensor().grad());
  numbers.push_back(norms(gradients));
  const auto own = is_bad(ops::cat(numbers));                                                // [1]
  const auto flags = ops::zeros({3, world_size}, options);
  flags.select(1, routing.self).copy_(ops::cat({own.to(at::kDouble), came.to(at::kDouble), sent.mul(own.logical_not()).to(at::kDouble)}));
  return flags.view({-1});
}

/// The factor that the numbers of a step make, with the normaliser and the passes that the host knows; as gradient_scale and Optimizer have
/// it on the host.
[[gnu::cold]] inline DeviceFactor device_factor(const at::Tensor& numbers, std::int64_t tables, double normaliser, double passes,
                                                GradientDivision division, bool divides, double clip_norm) {
  const auto options = numbers.options();
  const auto divisor = numbers[tables].add(normaliser);                                      // []
  auto valid = numbers.isfinite().all();                                                     // []
  if (divides) valid = valid.logical_and(divisor.isfinite()).logical_and(divisor.ge(0));
  auto factor = divides && division == GradientDivision::global_mean
                    ? divisor.reciprocal().masked_fill(divisor.eq(0), 0)
                    : ops::full({}, gradient_scale(division, false, normaliser, passes), options);   // []
  if (clip_norm > 0) {
    const auto squares = numbers.narrow(0, 0, tables).sum().add(numbers.narrow(0, tables + 1, numbers.numel() - tables - 1).sum());
    const auto norm = squares.sqrt().mul(factor).add(1e-6);                                  // []
    factor = factor.mul(norm.reciprocal().mul(clip_norm).clamp_max(1));                      // []
  }
  return {std::move(factor), std::move(valid)};
}

/// The numbers of the last step on a device, on their way to the host or there.
class StepReport {
 public:
  /// Sends them. `sums` [T + 2 + W] are what the host knows of the step, over all ranks; `flags` are not_finite_there's [3 W], or [0].
  [[gnu::cold]] void send(const at::Tensor& step, const at::Tensor& flags, at::Tensor sums, std::span<const DenseParameter> dense) {
    const auto numbers = ops::cat({step, flags});                                            // [T + 1 + gradients + 3 W]
    flags_ = flags.numel();
    const auto device = numbers.device();
    if (!host_.defined() || host_.numel() != numbers.numel())
      host_ = ops::empty(numbers.sizes(), at::TensorOptions(at::kDouble).pinned_memory(true));   // [T + 1 + gradients + 3 W]
    host_.copy_(numbers, /*non_blocking=*/true);
    if (!arrived_) arrived_.emplace(device.type());
    arrived_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    sums_ = std::move(sums);
    reached_.clear();
    for (const auto& one : dense) reached_.push_back(one.gradient.defined());
    is_new_ = true;
  }
  bool has_come() const { return sums_.defined(); }
  /// Whether nobody has looked at it; from now on somebody has.
  bool take_new() { return std::exchange(is_new_, false); }
  /// Which dense parameters had a gradient.
  const std::vector<char>& reached() const { return reached_; }

  /// What the step's numbers say. Waits for the device where they are still on their way.
  [[gnu::cold]] StepNorm read(std::span<const PlacedTable> tables, std::span<const DenseParameter> dense, bool divides) const {
    arrived_->synchronize();
    auto sums = sums_.clone();                                                               // [T + 2 + W]
    const auto known = static_cast<std::int64_t>(tables.size()) + 1;
    sums.narrow(0, 0, known).add_(host_.narrow(0, 0, known));
    const auto* next = host_.const_data_ptr<double>() + known;
    std::vector<double> squares;
    for (const auto reached : reached_) squares.push_back(reached ? *next++ : 0);
    auto norm = read_step_sums(sums, tables, dense, squares, divides);
    if (!norm.not_finite.empty()) norm.not_finite += cause_of(host_.narrow(0, host_.numel() - flags_, flags_));
    return norm;
  }

 private:
  at::Tensor host_, sums_;
  std::optional<c10::Event> arrived_;
  std::vector<char> reached_;
  std::int64_t flags_ = 0;
  bool is_new_ = false;
};

}  // namespace rookery::detail
