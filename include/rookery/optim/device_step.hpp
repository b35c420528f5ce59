// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A step on a device without waiting for it: whether the gradient is finite, its norm and its divisor stay there, and the factor that they
// make; the numbers follow to the host behind the step, where the next step reads them.
//
// A gradient that is not finite leaves every weight and state as it was all the same: where the device finds one, updates write back what
// they read. Answers to the found_inf of torch's GradScaler and of its capturable optimizers.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstddef>
#include <cstdint>
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
  /// Sends them. `sums` [T + 2 + W] are what the host knows of the step, over all ranks.
  [[gnu::cold]] void send(const at::Tensor& numbers, at::Tensor sums, std::span<const DenseParameter> dense) {
    const auto device = numbers.device();
    if (!host_.defined() || host_.numel() != numbers.numel())
      host_ = ops::empty(numbers.sizes(), at::TensorOptions(at::kDouble).pinned_memory(true));   // [T + 1 + gradients]
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
    return read_step_sums(sums, tables, dense, squares, divides);
  }

 private:
  at::Tensor host_, sums_;
  std::optional<c10::Event> arrived_;
  std::vector<char> reached_;
  bool is_new_ = false;
};

}  // namespace rookery::detail
