// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sums of squares of numbers that lie side by side: of gradients, for norms and for rules that need those of a row.
//
// 32 bytes of partial sums, four times over, so that additions need not wait for one another; the same bits whatever the compiler's target.
// Where float32 does not hold the result or loses its small parts, it is computed anew in float64.  Include cost: none.

#include <cstdint>

namespace rookery::detail {

/// numbers[i] *= scale where `scales`; the sum of the squares of what is there then. Not finite when a number is not.
template <bool scales, class Number, class Numbers>
[[gnu::always_inline]] inline double squares(Numbers* numbers, std::int64_t count, Number scale) {
  typedef Number Lanes __attribute__((vector_size(32)));
  constexpr std::int64_t lanes = 32 / sizeof(Number);
  Lanes sums[4]{}, values;
  Number rest = 0;
  std::int64_t i = 0;
  const auto take = [&](int part) __attribute__((always_inline)) {
    __builtin_memcpy(&values, numbers + i, sizeof values);
    if constexpr (scales) {
      values *= scale;
      __builtin_memcpy(numbers + i, &values, sizeof values);
    }
    sums[part] += values * values;
    i += lanes;
  };
  while (i + 4 * lanes <= count) take(0), take(1), take(2), take(3);
  while (i + lanes <= count) take(0);
  for (; i < count; ++i) {
    if constexpr (scales) numbers[i] *= scale;
    rest += numbers[i] * numbers[i];
  }
  values = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int lane = 0; lane < lanes; ++lane) rest += values[lane];
  if (rest > static_cast<Number>(1e-30) && rest < static_cast<Number>(1e30)) return static_cast<double>(rest);
  double exact = 0;
  for (i = 0; i < count; ++i) exact += static_cast<double>(numbers[i]) * static_cast<double>(numbers[i]);
  return exact;
}

template <class Number> [[gnu::always_inline]] inline double squared_norm(const Number* numbers, std::int64_t count) {
  return squares<false>(numbers, count, Number{1});
}
/// The same of numbers that are multiplied by `scale` on the way.
template <class Number> [[gnu::always_inline]] inline double scale_and_square(Number* numbers, std::int64_t count, Number scale) {
  return squares<true>(numbers, count, scale);
}

}  // namespace rookery::detail
