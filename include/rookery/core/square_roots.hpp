// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Square roots of numbers that lie side by side: what rules divide steps by.
//
// Compilers leave a loop around std::sqrt scalar, because it is to set errno; these are vectors, of the same bits.  Include cost: none.

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace rookery::detail {

/// Columns whose roots a rule takes together; on a device a number stands for all of them.
template <class Number> inline constexpr std::int64_t roots_at_once = std::is_arithmetic_v<Number> ? 64 : 1;

/// roots[i] = sqrt(numbers[i]), of `count` numbers.
template <class Number> [[gnu::always_inline]] inline void square_roots(const Number* numbers, std::int64_t count, Number* roots) {
  std::int64_t i = 0;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if constexpr (std::is_same_v<Number, float>) {
    typedef float Four __attribute__((vector_size(16)));
    Four four;
    for (; i + 4 <= count; i += 4) {
      __builtin_memcpy(&four, numbers + i, sizeof four);
      four = __builtin_ia32_sqrtps(four);
      __builtin_memcpy(roots + i, &four, sizeof four);
    }
  }
#endif
  using std::sqrt;
  for (; i < count; ++i) roots[i] = sqrt(numbers[i]);
}

}  // namespace rookery::detail
