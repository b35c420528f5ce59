// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Row update: applies a rule to distinct rows with their summed gradients, and computes the sums over whole rows that some rules need.
//
// A task is plain pointers; the rule's code is behind two of them, made once for each rule and dtype. A rule sees numbers of the
// table's compute dtype; rows of narrower tables are widened for it and rounded back. Rows are owned by threads, so there are no
// atomics and the result does not depend on how many there are.
// Answers to FBGEMM's fused backward.  Include cost: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/kernels/cpu/rounding.hpp>
#include <rookery/kernels/cpu/vector.hpp>

namespace rookery::kernels {

/// A slot of state, of the compute_dtype of the weights: row r starts at element r * stride.
struct StateColumn {
  void* first = nullptr;
  std::int64_t stride = 0, columns = 0;
};

/// The rows of a shard and the rule that changes them.
struct RowTask {
  c10::ScalarType dtype;                           // of weights
  void* weights = nullptr;                         // row r starts at element r * stride
  std::int64_t stride = 0, dim = 0, full_dim = 0;
  std::vector<StateColumn> state{};
  Rounding rounding{};
  std::int64_t first_element = 0;                  // number, in the whole table, of the shard's first weight
  StepContext context{};
  const void* rule = nullptr;
  std::int64_t row_sums = 0;                       // of a row, that the rule needs
  bool sums_squares = false;                       // they are one, and that of the squares of the row's gradient
  /// Updates distinct rows [U] by gradients [U, dim] of the compute dtype. `sums` are those of whole rows [U, row_sums]; null: the
  /// shard has all columns, and they are computed on the way.
  void (*update)(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, const double* sums) = nullptr;
  /// The rule's sums over the columns of this shard [U, row_sums]; null when it needs none.
  void (*sum)(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, double* sums) = nullptr;
};

namespace detail {

/// Calls `fn(u, row)` for each row; with `stores` what it made of the weights is kept.
template <class Rule, class Number, bool stores, class Fn>
[[gnu::always_inline]] inline void for_each_row(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, Fn&& fn) {
  const bool widened = c10::elementSize(task.dtype) != sizeof(Number);
  const auto size = static_cast<std::int64_t>(c10::elementSize(task.dtype));
  std::array<Number*, Rule::state.size() + 1> state{};
  std::vector<Number> wide(widened ? static_cast<std::size_t>(task.dim) : 0);
  const auto* gradient = static_cast<const Number*>(gradients);
  for (std::size_t u = 0; u < rows.size(); ++u, gradient += task.dim) {
    for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
      state[slot] = static_cast<Number*>(task.state[slot].first) + rows[u] * task.state[slot].stride;
    void* weights = static_cast<std::byte*>(task.weights) + rows[u] * task.stride * size;
    if constexpr (std::is_same_v<Number, float>)
      if (widened) load_row(task.dtype, weights, task.dim, wide.data());
    fn(u, Row<Number>{widened ? wide.data() : static_cast<Number*>(weights), gradient, state.data(), task.dim, task.full_dim});
    if constexpr (stores && std::is_same_v<Number, float>)
      if (widened) store_row(task.dtype, wide.data(), task.dim, task.rounding, task.first_element + rows[u] * task.full_dim, weights);
  }
}

template <class Rule, class Number>
[[gnu::always_inline]] inline void update_each(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients,
                                               const double* sums) {
  const auto& rule = *static_cast<const Rule*>(task.rule);
  for_each_row<Rule, Number, true>(task, rows, gradients, [&](std::size_t u, const Row<Number>& row) __attribute__((always_inline)) {
    if constexpr (Rule::row_sums > 0) {
      std::array<double, Rule::row_sums> own{};
      if (!sums) rule.sum_row(row, task.context, own.data());
      rule.update(row, task.context, sums ? sums + u * Rule::row_sums : own.data());
    } else {
      rule.update(row, task.context, nullptr);
    }
  });
}
template <class Rule, class Number>
[[gnu::always_inline]] inline void sum_each(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, double* sums) {
  if constexpr (Rule::row_sums > 0)
    for_each_row<Rule, Number, false>(task, rows, gradients, [&](std::size_t u, const Row<Number>& row) {
      static_cast<const Rule*>(task.rule)->sum_row(row, task.context, sums + u * Rule::row_sums);
    });
}

template <class Rule, class Number>
void update_plain(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, const double* sums) {
  update_each<Rule, Number>(task, rows, gradients, sums);
}
template <class Rule, class Number>
void sum_plain(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, double* sums) {
  sum_each<Rule, Number>(task, rows, gradients, sums);
}

// Compilers leave loops of unknown length scalar at -O2: a copy of the kernel is inlined into a function with the target and the
// optimisation of its own. No sum is reordered and nothing is fused, so both give the same bits.
#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#define ROOKERY_FOR_AVX2 [[gnu::target("avx2"), gnu::flatten, gnu::noinline]]
#else
#define ROOKERY_FOR_AVX2 [[gnu::target("avx2"), gnu::optimize("vect-cost-model=dynamic"), gnu::flatten, gnu::noinline]]
#endif
template <class Rule>
ROOKERY_FOR_AVX2 void update_avx2(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, const double* sums) {
  update_each<Rule, float>(task, rows, gradients, sums);
}
#undef ROOKERY_FOR_AVX2
#endif

}  // namespace detail

/// Puts a rule's code into a task. The rule must outlive it.
template <class Rule, class Number> void set_rule(RowTask& task, const Rule& rule) {
  task.rule = &rule;
  task.row_sums = Rule::row_sums;
  if constexpr (requires { rule.sums_squares(); }) task.sums_squares = rule.sums_squares();
  task.update = &detail::update_plain<Rule, Number>;
  if constexpr (Rule::row_sums > 0) task.sum = &detail::sum_plain<Rule, Number>;
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Number, float>)
    if (instruction_set() != InstructionSet::plain) task.update = &detail::update_avx2<Rule>;
#endif
}

namespace detail {

/// Calls `fn(rows, gradients, u)` on pieces, of which u is the number of the first row.
template <class Fn> void for_pieces(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, Fn&& fn) {
  const auto bytes = task.dim * static_cast<std::int64_t>(c10::elementSize(compute_dtype(task.dtype)));
  parallel(static_cast<std::int64_t>(rows.size()), 1 + 16384 / (bytes + 1), [&](std::int64_t begin, std::int64_t end) {
    fn(rows.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
       static_cast<const std::byte*>(gradients) + begin * bytes, begin);
  });
}

}  // namespace detail

/// task.sum on all threads. Writes [U, row_sums].
inline void sum_rows(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, double* sums) {
  detail::for_pieces(task, rows, gradients, [&](std::span<const std::int64_t> piece, const void* from, std::int64_t first) {
    task.sum(task, piece, from, sums + first * task.row_sums);
  });
}

/// task.update on all threads.
inline void update_rows(const RowTask& task, std::span<const std::int64_t> rows, const void* gradients, const double* sums) {
  detail::for_pieces(task, rows, gradients, [&](std::span<const std::int64_t> piece, const void* from, std::int64_t first) {
    task.update(task, piece, from, sums ? sums + first * task.row_sums : nullptr);
  });
}

}  // namespace rookery::kernels
