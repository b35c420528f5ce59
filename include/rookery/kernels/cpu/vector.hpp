// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Vectors of numbers of a width that is known at compile time, and the instruction set that a machine has for them.
//
// Plain C++ with the vector types of GCC and Clang: one source is compiled for AVX-512, for AVX2 and for the compiler's own target,
// and chosen at run time, so that users need no flag. All give the same bits: no product is fused with a sum.
// Answers to FBGEMM's generated kernels and its run-time choice among them.  Include cost: none (c10 scalar types).

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

namespace rookery::kernels {

enum class InstructionSet { plain, avx2, avx512 };

namespace detail {

inline InstructionSet found_instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) return InstructionSet::avx2;
#endif
  return InstructionSet::plain;
}

}  // namespace detail

/// What kernels are chosen by: the best that the machine has. A test may set a lesser one.
inline InstructionSet& instruction_set() {
  static InstructionSet chosen = detail::found_instruction_set();
  return chosen;
}

namespace detail {

template <class Number, int count> struct VectorOf {
  typedef Number type __attribute__((vector_size(sizeof(Number) * count), may_alias));
};
template <class Number, int count> using Vector = typename VectorOf<Number, count>::type;

/// Reads `count` numbers from anywhere, narrow ones as float32.
template <int count> [[gnu::always_inline]] inline void read(const double* from, Vector<double, count>& to) {
  __builtin_memcpy(&to, from, sizeof to);
}
template <int count> [[gnu::always_inline]] inline void read(const float* from, Vector<float, count>& to) {
  __builtin_memcpy(&to, from, sizeof to);
}
template <int count> [[gnu::always_inline]] inline void read(const c10::BFloat16* from, Vector<float, count>& to) {
  Vector<std::uint32_t, count> wide;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if constexpr (count >= 8) {                                // only the kernels for AVX2 and AVX-512 have vectors of so many
    asm("vpmovzxwd %1, %0" : "=v"(wide) : "m"(*reinterpret_cast<const char(*)[2 * count]>(from)));
  } else
#endif
  {
    Vector<std::uint16_t, count> bits;
    __builtin_memcpy(&bits, from, sizeof bits);
    wide = __builtin_convertvector(bits, Vector<std::uint32_t, count>);
  }
  wide <<= 16;
  __builtin_memcpy(&to, &wide, sizeof to);
}
template <int count> [[gnu::always_inline]] inline void read(const c10::Half* from, Vector<float, count>& to) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if constexpr (count >= 8) {                                // as above
    asm("vcvtph2ps %1, %0" : "=v"(to) : "m"(*reinterpret_cast<const char(*)[2 * count]>(from)));
  } else
#endif
  {
    using Bits = Vector<std::uint32_t, count>;
    Vector<std::uint16_t, count> half;
    __builtin_memcpy(&half, from, sizeof half);
    const Bits bits = __builtin_convertvector(half, Bits);
    const Bits magnitude = (bits & 0x7fffU) << 13;           // of a float32 whose exponent is 112 too small, subnormal ones too
    __builtin_memcpy(&to, &magnitude, sizeof to);
    to *= 0x1p112F;
    Bits result;
    __builtin_memcpy(&result, &to, sizeof result);
    result |= (static_cast<Bits>(magnitude >= 0x0f800000U) & 0x7f800000U) | (bits & 0x8000U) << 16;   // infinities and NaN; the sign
    __builtin_memcpy(&to, &result, sizeof to);
  }
}

}  // namespace detail

/// to[i] += from[i].
template <class Number> void add(const Number* from, std::int64_t count, Number* to) {
  constexpr int lanes = 16 / static_cast<int>(sizeof(Number));
  detail::Vector<Number, lanes> values, sums;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    detail::read<lanes>(from + i, values);
    detail::read<lanes>(to + i, sums);
    sums += values;
    __builtin_memcpy(to + i, &sums, sizeof sums);
  }
  for (; i < count; ++i) to[i] += from[i];
}

}  // namespace rookery::kernels
