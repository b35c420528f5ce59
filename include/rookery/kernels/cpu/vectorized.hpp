// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// parallel_vectorized: plain loops over rows, compiled for AVX2 as well as for the compiler's own target, and chosen at run time.
//
// Compilers leave loops of unknown length scalar at -O2, and users need no flag here: a copy of the kernel is inlined into a function
// with the target and the optimisation of its own. No sum is reordered and nothing is fused, so both give the same bits.
// Answers to FBGEMM's generated kernels and its run-time choice among them.  Include cost: none.

#include <cstdint>
#include <type_traits>

#include <rookery/core/parallel.hpp>

namespace rookery::kernels {

namespace detail {

#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#define ROOKERY_FOR_AVX2 [[gnu::target("avx2"), gnu::flatten, gnu::noinline]]
#else
#define ROOKERY_FOR_AVX2 [[gnu::target("avx2"), gnu::optimize("vect-cost-model=dynamic"), gnu::flatten, gnu::noinline]]
#endif
template <class Fn> ROOKERY_FOR_AVX2 void call_for_avx2(Fn& fn, std::int64_t begin, std::int64_t end) { fn(begin, end); }
#undef ROOKERY_FOR_AVX2
inline bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#else
template <class Fn> void call_for_avx2(Fn& fn, std::int64_t begin, std::int64_t end) { fn(begin, end); }
inline bool has_avx2() { return false; }
#endif

}  // namespace detail

/// parallel(size, grain, fn); pieces with loops over float32 with the widest vectors that the machine has.
template <class Number, class Fn> void parallel_vectorized(std::int64_t size, std::int64_t grain, Fn&& fn) {
  if constexpr (std::is_same_v<Number, float>)
    if (detail::has_avx2())
      return parallel(size, grain, [&](std::int64_t begin, std::int64_t end) { detail::call_for_avx2(fn, begin, end); });
  parallel(size, grain, fn);
}

}  // namespace rookery::kernels
