// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The largest magnitude of many numbers, infinity where one is not finite: whether their sums can overflow.
//
// Magnitudes are compared as whole numbers, which order them with NaN above infinity.  Include cost: none (c10 scalar types).

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <rookery/core/dtype.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/vector.hpp>

namespace rookery::kernels {

namespace detail {

/// The bits of the largest magnitude of `columns` numbers in each of `count` vectors, `stride` bytes apart.
template <class Bits, int lanes>
[[gnu::always_inline]] inline Bits largest_bits(const std::byte* first, std::int64_t stride, std::int64_t count, std::int64_t columns) {
  constexpr Bits mask = std::numeric_limits<Bits>::max();    // all but the sign
  Vector<Bits, lanes> most{}, values;
  Bits rest = 0;
  for (std::int64_t v = 0; v < count; ++v) {
    const auto* numbers = reinterpret_cast<const Bits*>(first + v * stride);
    std::int64_t d = 0;
    for (; d + lanes <= columns; d += lanes) {
      __builtin_memcpy(&values, numbers + d, sizeof values);
      values &= mask;
      most = values > most ? values : most;
    }
    for (; d < columns; ++d) {
      Bits one;
      __builtin_memcpy(&one, numbers + d, sizeof one);
      rest = std::max<Bits>(rest, one & mask);
    }
  }
  for (int lane = 0; lane < lanes; ++lane) rest = std::max<Bits>(rest, most[lane]);
  return rest;
}

template <class Bits> Bits largest_bits_plain(const std::byte* first, std::int64_t stride, std::int64_t count, std::int64_t columns) {
  return largest_bits<Bits, 8>(first, stride, count, columns);
}
#if defined(__x86_64__) && defined(__GNUC__)
[[gnu::target("avx2"), gnu::noinline]] inline std::int32_t largest_bits_avx2(const std::byte* first, std::int64_t stride,
                                                                             std::int64_t count, std::int64_t columns) {
  return largest_bits<std::int32_t, 8>(first, stride, count, columns);
}
#endif

}  // namespace detail

/// Dtypes: float32, float64, float16, bfloat16. Cost: one pass.
inline double largest_magnitude(c10::ScalarType dtype, const std::byte* first, std::int64_t stride, std::int64_t count,
                                std::int64_t columns) {
  const auto finite = [](double value) { return std::isfinite(value) ? value : std::numeric_limits<double>::infinity(); };
  if (is_narrow(dtype)) {
    double found = 0;
    detail::for_narrow(dtype, [&](auto narrow) {
      const auto bits = detail::largest_bits_plain<std::int16_t>(first, stride, count, columns);
      found = finite(static_cast<float>(decltype(narrow)(static_cast<std::uint16_t>(bits), decltype(narrow)::from_bits())));
    });
    return found;
  }
  if (dtype == c10::ScalarType::Double)
    return finite(std::bit_cast<double>(detail::largest_bits_plain<std::int64_t>(first, stride, count, columns)));
#if defined(__x86_64__) && defined(__GNUC__)
  if (instruction_set() != InstructionSet::plain)
    return finite(std::bit_cast<float>(detail::largest_bits_avx2(first, stride, count, columns)));
#endif
  return finite(std::bit_cast<float>(detail::largest_bits_plain<std::int32_t>(first, stride, count, columns)));
}

}  // namespace rookery::kernels
