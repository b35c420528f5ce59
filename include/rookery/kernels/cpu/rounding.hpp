// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rounding of float32 rows to the float16 or bfloat16 of a table, and back.
//
// Updates are often smaller than half a step of a narrow dtype and would be lost for good; rounding up or down with the odds
// that make the mean exact keeps them. The draw of a weight depends on its table, row, column and step only, so every plan
// rounds alike.  Answers to FBGEMM's stochastic_rounding.  Include cost: none (c10 scalar types).

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <rookery/core/dtype.hpp>
#include <rookery/core/mix.hpp>

namespace rookery::kernels {

/// How rows are rounded. `key` stands for the table and the step.
struct Rounding {
  bool stochastic = false;                         // else to the nearest, ties to even
  std::uint64_t key = 0;
};

namespace detail {

/// 32 random bits for one element under a key.
inline std::uint32_t draw(std::uint64_t key, std::uint64_t element) {
  return static_cast<std::uint32_t>(mix64(key + (element + 1) * 0x9e3779b97f4a7c15ULL) >> 32);
}

/// The neighbour below or above in magnitude, above with odds of the part cut off. NaN and infinities stay.
inline c10::BFloat16 round_stochastic(float value, std::uint32_t draw, c10::BFloat16) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  constexpr std::uint32_t exponent = 0x7f800000U;
  auto rounded = bits + (draw >> 16);
  if ((bits & exponent) == exponent) return {value};
  if ((rounded & exponent) == exponent) rounded = bits;        // the largest stays finite
  return {static_cast<std::uint16_t>(rounded >> 16), c10::BFloat16::from_bits()};
}
inline c10::Half round_stochastic(float value, std::uint32_t draw, c10::Half) {
  constexpr float largest = 65504;
  const float magnitude = std::abs(value);
  if (!(magnitude < largest)) return {magnitude > largest && std::isfinite(value) ? std::copysign(largest, value) : value};
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int step = std::max(exponent - 11, -24);               // 11 bits of significand; the smallest step is 2^-24
  const float scaled = std::ldexp(magnitude, -step), below = std::floor(scaled);
  const bool up = static_cast<double>(draw) * 0x1p-32 < static_cast<double>(scaled - below);
  return {std::copysign(std::ldexp(up ? below + 1 : below, step), value)};
}

/// Calls `fn(Weight{})` with the C++ type of a dtype that is narrower than what is computed with.
template <class Fn> void for_narrow(c10::ScalarType dtype, Fn&& fn) {
  if (dtype == c10::ScalarType::Half) fn(c10::Half{});
  else fn(c10::BFloat16{});
}

/// The nearest number of the dtype; a finite value beyond its largest becomes that.
template <class Weight> Weight round_nearest(float value, Weight) {
  const float largest = std::is_same_v<Weight, c10::Half> ? 65504.f : std::bit_cast<float>(0x7f7f0000U);
  if (std::isfinite(value)) value = std::clamp(value, -largest, largest);
  return static_cast<Weight>(value);
}

}  // namespace detail

/// out[i] = row[i] in float32. Dtypes: row float16 or bfloat16.
[[gnu::noinline]] inline void load_row(c10::ScalarType dtype, const void* row, std::int64_t count, float* out) {
  detail::for_narrow(dtype, [&](auto weight) {
    const auto* from = static_cast<const decltype(weight)*>(row);
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(from[i]);
  });
}

/// row[i] = values[i], rounded; `first` is the number of the row's first element in its table. Dtypes: row float16 or bfloat16.
[[gnu::noinline]] inline void store_row(c10::ScalarType dtype, const float* values, std::int64_t count, const Rounding& rounding,
                                        std::int64_t first, void* row) {
  detail::for_narrow(dtype, [&](auto weight) {
    auto* to = static_cast<decltype(weight)*>(row);
    for (std::int64_t i = 0; i < count; ++i)
      to[i] = rounding.stochastic
                  ? detail::round_stochastic(values[i], detail::draw(rounding.key, static_cast<std::uint64_t>(first + i)), weight)
                  : detail::round_nearest(values[i], weight);
  });
}

}  // namespace rookery::kernels
