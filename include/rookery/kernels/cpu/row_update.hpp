// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Row update: applies a rule to the distinct rows of a step, and computes the sums over whole rows that some rules need.
//
// Rows are owned by threads, so there are no atomics and the result does not depend on how many there are. A rule sees numbers of
// the table's compute dtype; rows of narrower tables are widened for it and rounded back.
// Answers to FBGEMM's fused backward.  Include cost: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/kernels/cpu/rounding.hpp>
#include <rookery/kernels/cpu/vectorized.hpp>

namespace rookery::kernels {

/// A slot of state: row r starts at element r * stride.
template <class Number> struct StateColumn {
  Number* first = nullptr;
  std::int64_t stride = 0;
};

/// The distinct rows of a shard with their summed gradients. `Number` is the compute_dtype of the weights.
template <class Number> struct RowUpdateTask {
  c10::ScalarType dtype;                           // of weights
  void* weights = nullptr;                         // row r starts at element r * stride
  std::int64_t stride = 0, dim = 0, full_dim = 0;
  std::span<const StateColumn<Number>> state;
  std::span<const std::int64_t> rows;              // [U] distinct
  const Number* gradients = nullptr;               // [U, dim]
  Rounding rounding{};
  std::int64_t first_element = 0;                  // number, in the whole table, of the shard's first weight
};

namespace detail {

/// Calls `fn(u, row)` for each row of the task; `stores` says that it changes weights.
template <class Rule, bool stores, class Number, class Fn> void for_each_row(const RowUpdateTask<Number>& task, Fn&& fn) {
  const bool widened = c10::elementSize(task.dtype) != sizeof(Number);
  const auto size = static_cast<std::int64_t>(c10::elementSize(task.dtype));
  const auto count = static_cast<std::int64_t>(task.rows.size());
  parallel_vectorized<Number>(count, 1 + 4096 / (task.dim + 1), [&](std::int64_t begin, std::int64_t end) {
    std::array<Number*, Rule::state.size() + 1> state{};
    std::vector<Number> wide(widened ? static_cast<std::size_t>(task.dim) : 0);
    for (std::int64_t u = begin; u < end; ++u) {
      const auto row = task.rows[static_cast<std::size_t>(u)];
      for (std::size_t slot = 0; slot < Rule::state.size(); ++slot) state[slot] = task.state[slot].first + row * task.state[slot].stride;
      void* weights = static_cast<std::byte*>(task.weights) + row * task.stride * size;
      if constexpr (std::is_same_v<Number, float>)
        if (widened) load_row(task.dtype, weights, task.dim, wide.data());
      fn(u, Row<Number>{widened ? wide.data() : static_cast<Number*>(weights), task.gradients + u * task.dim, state.data(), task.dim,
                        task.full_dim});
      if constexpr (stores && std::is_same_v<Number, float>)
        if (widened) store_row(task.dtype, wide.data(), task.dim, task.rounding, task.first_element + row * task.full_dim, weights);
    }
  });
}

}  // namespace detail

/// sums[u] = the rule's sums over the columns that are here, [U, row_sums].
template <class Rule, class Number>
void sum_rows(const Rule& rule, const StepContext& context, const RowUpdateTask<Number>& task, double* sums) {
  detail::for_each_row<Rule, false>(
      task, [&](std::int64_t u, const Row<Number>& row) { rule.sum_row(row, context, sums + u * Rule::row_sums); });
}

/// Updates each row and its state once. `sums` [U, row_sums] are those of whole rows.
template <class Rule, class Number>
void update_rows(const Rule& rule, const StepContext& context, const RowUpdateTask<Number>& task, const double* sums) {
  detail::for_each_row<Rule, true>(
      task, [&](std::int64_t u, const Row<Number>& row) { rule.update(row, context, sums + u * Rule::row_sums); });
}

}  // namespace rookery::kernels
