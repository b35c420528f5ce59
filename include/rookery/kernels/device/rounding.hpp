// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rounding of float32 rows on a device to the float16 or bfloat16 of their table: the same bits as kernels/cpu/rounding.hpp, from the
// same draws, by LibTorch's operators on whole tensors.  Answers to FBGEMM's stochastic_rounding.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <bit>
#include <cstdint>

#include <rookery/core/operators.hpp>
#include <rookery/kernels/cpu/rounding.hpp>

namespace rookery::kernels {

namespace detail {

inline std::int64_t as_signed(std::uint64_t bits) { return static_cast<std::int64_t>(bits); }

/// x >> bits of unsigned 64-bit numbers.
[[gnu::cold]] inline at::Tensor shifted(const at::Tensor& x, int bits) {
  return x.bitwise_right_shift(bits).bitwise_and(as_signed(~std::uint64_t{0} >> bits));
}
/// `draw` for each element: 32 random bits. Shapes: as `elements`, int64.
[[gnu::cold]] inline at::Tensor draws(std::uint64_t key, const at::Tensor& elements) {
  auto x = elements.add(1).mul(as_signed(0x9e3779b97f4a7c15ULL)).add(as_signed(key));        // [U, D]
  x = x.bitwise_xor(shifted(x, 30)).mul(as_signed(0xbf58476d1ce4e5b9ULL));                   // [U, D] mix64, line by line
  x = x.bitwise_xor(shifted(x, 27)).mul(as_signed(0x94d049bb133111ebULL));                   // [U, D]
  return shifted(x.bitwise_xor(shifted(x, 31)), 32);                                         // [U, D]
}

/// Finite values as far as `largest`; NaN and infinities stay.
[[gnu::cold]] inline at::Tensor bounded(const at::Tensor& values, double largest) {
  return ops::where(values.isinf(), values, values.clamp(-largest, largest));                     // [U, D]
}

[[gnu::cold]] inline at::Tensor round_stochastic_bfloat16(const at::Tensor& values, const at::Tensor& draws) {
  constexpr std::int64_t exponent = 0x7f800000;
  const auto bits = values.view(at::kInt).to(at::kLong).bitwise_and(0xffffffff);             // [U, D]
  const auto up = bits.add(draws.bitwise_right_shift(16));                                   // [U, D]
  const auto largest = up.bitwise_and(exponent).eq(exponent);                                // [U, D] stays finite
  const auto rounded = ops::where(largest, bits, up).bitwise_right_shift(16).to(at::kShort).view(at::kBFloat16);   // [U, D]
  return ops::where(bits.bitwise_and(exponent).eq(exponent), values.to(at::kBFloat16), rounded);
}
[[gnu::cold]] inline at::Tensor round_stochastic_float16(const at::Tensor& values, const at::Tensor& draws) {
  constexpr double largest = 65504;
  const auto magnitude = values.abs();                                                       // [U, D]
  const auto exponent = magnitude.view(at::kInt).bitwise_right_shift(23).sub(126);           // [U, D] as frexp's; less of denormals
  const auto step = exponent.sub(11).clamp(-24, 31);                                         // [U, D] the smallest step is 2^-24
  const auto power = [](const at::Tensor& of_two) {
    return of_two.add(127).bitwise_left_shift(23).view(at::kFloat);                          // [U, D] 2^x, exactly
  };
  const auto scaled = magnitude.mul(power(step.neg())), below = scaled.floor();              // [U, D]
  const auto up = draws.to(at::kDouble).mul(0x1p-32).lt(scaled.sub(below).to(at::kDouble));  // [U, D]
  const auto rounded = below.add(up.to(at::kFloat)).mul(power(step)).copysign(values);       // [U, D]
  return ops::where(magnitude.lt(largest), rounded, bounded(values, largest)).to(at::kHalf);
}

}  // namespace detail

/// Rows rounded to float16 or bfloat16. `elements` are the numbers of their elements in the table.
///
/// Shapes:  values and elements [U, D], the result as they.
/// Dtypes:  values float32, elements int64; on one device.
[[gnu::cold]] inline at::Tensor round_rows(const at::Tensor& values, at::ScalarType dtype, const Rounding& rounding,
                                           const at::Tensor& elements) {
  if (!rounding.stochastic) {
    const double largest = dtype == at::kHalf ? 65504 : std::bit_cast<float>(0x7f7f0000U);
    return detail::bounded(values, largest).to(dtype);                                       // [U, D]
  }
  const auto draws = detail::draws(rounding.key, elements);                                  // [U, D]
  return dtype == at::kHalf ? detail::round_stochastic_float16(values, draws) : detail::round_stochastic_bfloat16(values, draws);
}

}  // namespace rookery::kernels
