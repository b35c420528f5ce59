// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sums of squares of numbers that lie side by side: of gradients, for norms and for rules that need those of a row.
//
// 32 bytes of partial sums, four times over, so that additions need not wait for one another; the same bits whatever the compiler's target.
// Where float32 does not hold the result or loses its small parts, it is computed anew in float64.  Include cost: none.

#include <cstdint>
#include <type_traits>

namespace rookery::detail {

/// numbers[i] *= scale where `scales`; the sum of the squares of what is there then, added up as `Sum`. Not finite when a number is not.
template <bool scales, class Sum, class Number, class Numbers>
[[gnu::always_inline]] inline double squares(Numbers* numbers, std::int64_t count, Number scale) {
  constexpr std::int64_t lanes = 32 / sizeof(Sum);
  typedef Number Values __attribute__((vector_size(lanes * sizeof(Number))));
  typedef Sum Sums __attribute__((vector_size(32)));
  Sums sums[4]{};
  Values values;
  Sum rest = 0;
  std::int64_t i = 0;
  const auto take = [&](int part) __attribute__((always_inline)) {
    __builtin_memcpy(&values, numbers + i, sizeof values);
    if constexpr (scales) {
      values *= scale;
      __builtin_memcpy(numbers + i, &values, sizeof values);
    }
    const Sums wide = __builtin_convertvector(values, Sums);
    sums[part] += wide * wide;
    i += lanes;
  };
  while (i + 4 * lanes <= count) take(0), take(1), take(2), take(3);
  while (i + lanes <= count) take(0);
  for (; i < count; ++i) {
    if constexpr (scales) numbers[i] *= scale;
    rest += static_cast<Sum>(numbers[i]) * static_cast<Sum>(numbers[i]);
  }
  sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int lane = 0; lane < lanes; ++lane) rest += sums[0][lane];
  if constexpr (std::is_same_v<Sum, float>)
    if (!(rest > 1e-30F && rest < 1e30F)) return squares<false, double>(numbers, count, Number{1});
  return static_cast<double>(rest);
}

/// The sum of the squares of `count` numbers, added up as `Sum`.
template <class Sum, class Number> [[gnu::always_inline]] inline double squared_norm(const Number* numbers, std::int64_t count) {
  return squares<false, Sum>(numbers, count, Number{1});
}
/// The same of numbers that are multiplied by `scale` on the way, in their own dtype.
template <class Number> [[gnu::always_inline]] inline double scale_and_square(Number* numbers, std::int64_t count, Number scale) {
  return squares<true, Number>(numbers, count, scale);
}

}  // namespace rookery::detail
