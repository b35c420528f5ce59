// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Row update on a device: applies a rule to the distinct rows of a step, or to whole tensors, by LibTorch's operators.
//
// A rule is given all rows at once, as DeviceNumbers: its code is that of the host, and so is its arithmetic, but for the order in which
// a row's sums are taken. Each row is written once, so nothing depends on the order of threads. Nothing here waits for the device.
// Answers to FBGEMM's fused backward and torch.optim's foreach.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/device/number.hpp>
#include <rookery/kernels/device/rounding.hpp>

namespace rookery::kernels {

/// The distinct rows of a shard on a device with their summed gradients; or a whole parameter, of any shape, where `rows` is undefined.
struct DeviceUpdateTask {
  at::Tensor weight;                               // [E, D], strided
  std::span<const at::Tensor> state;               // a slot: [E] or [E, D], in the compute_dtype of weights
  at::Tensor rows{};                               // [U] distinct, int64
  at::Tensor gradients;                            // [U, D] in the compute_dtype of weights
  std::int64_t full_dim = 0;
  Rounding rounding{};
  std::int64_t first_element = 0;                  // number, in the whole table, of the shard's first weight
  at::Tensor valid{};                              // [] bool: where it does not hold, all stays as it is; undefined: it holds
};

namespace detail {

/// What a rule works on, and what there was before.
struct DeviceRows {
  DeviceNumber weight, gradient;                   // [U, D]
  std::vector<DeviceNumber> state;                 // [U, 1] or [U, D]
  std::vector<DeviceNumber*> slots;
  at::Tensor weight_before;                        // [U, D]

  [[gnu::cold]] explicit DeviceRows(const DeviceUpdateTask& task) : gradient(task.gradients) {
    const auto of_rows = [&](const at::Tensor& tensor) {
      auto picked = task.rows.defined() ? tensor.index_select(0, task.rows) : tensor;        // [U] or [U, D]
      return task.rows.defined() && picked.dim() == 1 ? picked.unsqueeze(1) : picked;        // [U, 1] or [U, D]
    };
    weight_before = of_rows(task.weight.detach()).to(compute_dtype(task.weight.scalar_type()));
    weight = DeviceNumber(weight_before);
    state.reserve(task.state.size());
    for (const auto& slot : task.state) slots.push_back(&state.emplace_back(of_rows(slot)));
  }
  Row<DeviceNumber> row(std::int64_t full_dim) { return {&weight, &gradient, slots.data(), 1, full_dim}; }

  /// Writes weights and state back where they came from.
  [[gnu::cold]] void store(const DeviceUpdateTask& task) const {
    const auto put = [&](const at::Tensor& tensor, at::Tensor values) {
      if (task.rows.defined() && tensor.dim() == 1) values = values.squeeze(1);              // [U]
      if (task.valid.defined()) values = ops::where(task.valid, values, task.rows.defined() ? tensor.index_select(0, task.rows) : tensor);
      if (task.rows.defined()) tensor.index_copy_(0, task.rows, values);
      else tensor.copy_(values);
    };
    for (std::size_t slot = 0; slot < state.size(); ++slot) {
      const auto& held = task.state[slot];
      const auto& value = state[slot].values();
      auto shape = weight_before.sizes().vec();
      if (task.rows.defined() && held.dim() == 1) shape[1] = 1;
      put(held, value.is_tensor() ? value.tensor.to(held.scalar_type()).expand(shape) : ops::full(shape, value.number, held.options()));
    }
    auto changed = weight.values().tensor;                                                   // [U, D]
    if (changed.is_same(weight_before)) return;
    const auto dtype = task.weight.scalar_type();
    if (dtype != compute_dtype(dtype)) {
      const auto columns = ops::arange(task.weight.size(1), task.rows.device());             // [D]
      const auto elements = task.rows.mul(task.full_dim).add(task.first_element).unsqueeze(1).add(columns);    // [U, D]
      changed = round_rows(changed, dtype, task.rounding, elements);                         // [U, D]
    }
    put(task.weight.detach(), changed);
  }
};

}  // namespace detail

/// The rule's sums over the columns that are here, [U, row_sums] float64.
template <class Rule> [[gnu::cold]] at::Tensor sum_rows(const Rule& rule, const StepContext& context, const DeviceUpdateTask& task) {
  static_assert(Rule::row_sums > 0);
  const at::NoGradGuard no_grad;
  detail::DeviceRows rows(task);
  std::array<DeviceReal, static_cast<std::size_t>(Rule::row_sums)> sums{};
  rule.sum_row(rows.row(task.full_dim), DeviceStepContext{static_cast<double>(context.step), context.rate}, sums.data());
  std::vector<at::Tensor> columns;                                                           // each [U, 1]
  for (const auto& sum : sums) columns.push_back(sum.values().tensor);
  return ops::cat(columns, 1);                                                               // [U, row_sums]
}

/// Updates each row and its state once. `sums` [U, row_sums] are those of whole rows; undefined where a rule needs none.
template <class Rule>
[[gnu::cold]] void update_rows(const Rule& rule, const StepContext& context, const DeviceUpdateTask& task, const at::Tensor& sums = {}) {
  const at::NoGradGuard no_grad;
  detail::DeviceRows rows(task);
  std::array<DeviceReal, static_cast<std::size_t>(Rule::row_sums) + 1> totals{};
  for (std::size_t i = 0; i < static_cast<std::size_t>(Rule::row_sums); ++i)
    totals[i] = DeviceReal(sums.narrow(1, static_cast<std::int64_t>(i), 1));                 // [U, 1]
  rule.update(rows.row(task.full_dim), DeviceStepContext{static_cast<double>(context.step), context.rate}, totals.data());
  rows.store(task);
}

}  // namespace rookery::kernels
