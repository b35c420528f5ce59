// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Transpose: from bags that name rows to rows that name the gradients which hit them.
//
// Occurrences are collected in a fixed order and sorted stably by row, so the sum of a row's gradients is taken in that
// order whatever the number of threads.  Answers to FBGEMM's transpose_embedding_input.  Include cost: none.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/pooled_lookup.hpp>

namespace rookery::kernels {

/// Ids of a shard and the gradients of their bags.
struct GradientSource {
  const std::int64_t* ids = nullptr;         // [offsets[bags] - offsets[0]]
  const std::int64_t* offsets = nullptr;     // [bags + 1]; null: each id has a gradient of its own
  const double* weights = nullptr;           // as ids; null: 1
  const double* divisors = nullptr;          // [bags]; null: 1; a gradient divided by 0 is 0
  std::int64_t bags = 0;
  const std::byte* first = nullptr;          // gradient b begins b * stride bytes on, [dim]
  std::int64_t stride = 0;

  /// The number of a bag's first id.
  std::int64_t first_of(std::int64_t bag) const { return offsets ? offsets[bag] - offsets[0] : bag; }
  std::int64_t count() const { return first_of(bags); }
};

/// The gradients that reach the rows of one shard in one step, as a list of (row, gradient, factor).
struct Occurrences {
  std::vector<std::int64_t> rows;
  std::vector<const void*> gradients;        // each [dim]
  std::vector<double> factors;               // per-sample weights, 1 where there are none
  c10::ScalarType dtype = c10::ScalarType::Undefined;   // of gradients, where float16 or bfloat16; else that of their sums

  void reserve(std::size_t count) {
    rows.reserve(count);
    gradients.reserve(count);
    factors.reserve(count);
  }
  void add(std::int64_t row, const void* gradient, double factor) {
    rows.push_back(row);
    gradients.push_back(gradient);
    factors.push_back(factor);
  }
};

/// Distinct rows, ascending, and which occurrences each one has.
struct Transposed {
  std::vector<std::int64_t> rows;            // [U]
  std::vector<std::int64_t> starts;          // [U + 1] into order
  std::vector<std::int64_t> order;           // [N] occurrence numbers, by row, then as collected
};

/// Stable sort of rows, 11 bits a pass. Cost: O(N * ceil(bits of the largest row / 11)).
inline Transposed transpose(std::span<const std::int64_t> rows) {
  const auto count = rows.size();
  Transposed out;
  out.order.resize(count);
  std::iota(out.order.begin(), out.order.end(), std::int64_t{0});
  const std::int64_t largest = count == 0 ? 0 : *std::max_element(rows.begin(), rows.end());
  std::vector<std::int64_t> scratch(count);
  constexpr int digit_bits = 11;
  for (int shift = 0; shift < 63 && (largest >> shift) > 0; shift += digit_bits) {
    std::array<std::size_t, (1 << digit_bits) + 1> starts{};
    const auto digit = [&](std::int64_t i) {
      return static_cast<std::size_t>(rows[static_cast<std::size_t>(i)] >> shift) & ((1U << digit_bits) - 1);
    };
    for (const auto i : out.order) ++starts[digit(i) + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    for (const auto i : out.order) scratch[starts[digit(i)]++] = i;
    out.order.swap(scratch);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const auto row = rows[static_cast<std::size_t>(out.order[i])];
    if (i == 0 || row != out.rows.back()) {
      out.rows.push_back(row);
      out.starts.push_back(static_cast<std::int64_t>(i));
    }
  }
  out.starts.push_back(static_cast<std::int64_t>(count));
  return out;
}

/// out[u] = sum over the occurrences of distinct row u of factor * gradient, [U, dim], in the order they were collected; long ones
/// in blocks.
inline void sum_row_gradients(const Occurrences& occurrences, const Transposed& transposed, c10::ScalarType dtype, std::int64_t dim,
                              void* out) {
  std::vector<std::int64_t> addresses(transposed.order.size());
  std::vector<double> factors(transposed.order.size());
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    const auto occurrence = static_cast<std::size_t>(transposed.order[i]);
    addresses[i] = reinterpret_cast<std::intptr_t>(occurrences.gradients[occurrence]);
    factors[i] = occurrences.factors[occurrence];
  }
  const bool narrow = is_narrow(occurrences.dtype), widens = narrow && dtype == c10::ScalarType::Double;
  std::vector<float> sums(widens ? transposed.rows.size() * static_cast<std::size_t>(dim) : 0);
  LookupTask task{.dtype = narrow ? occurrences.dtype : dtype};
  task.dim = dim;
  task.ids = addresses.data();
  task.offsets = transposed.starts.data();
  task.sample_weights = factors.data();
  task.bags = static_cast<std::int64_t>(transposed.rows.size());
  task.out = widens ? sums.data() : out;
  task.out_stride = dim;
  look_up(std::span(&task, 1));
  if (widens) std::copy(sums.begin(), sums.end(), static_cast<double*>(out));
}

}  // namespace rookery::kernels
