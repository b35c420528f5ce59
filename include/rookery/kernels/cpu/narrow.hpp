// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Narrow: numbers as float16 or bfloat16 on the way between ranks, and back.
//
// Answers to torchrec's quantised communication codecs; differs: the cast is part of the loop that writes or reads the numbers
// anyway.  Include cost: none (c10 scalar types only).

#include <algorithm>
#include <cstdint>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/kernels/cpu/rounding.hpp>

namespace rookery::kernels {

inline bool is_narrow(c10::ScalarType dtype) { return dtype == c10::ScalarType::Half || dtype == c10::ScalarType::BFloat16; }

/// Writes `count` numbers as `dtype`, rounded to the nearest where that is a narrow one; else as they are. Numbers beyond float16's
/// range become infinite.
template <class Number> void store(const Number* from, std::int64_t count, c10::ScalarType dtype, void* to) {
  if (!is_narrow(dtype)) {
    std::copy_n(from, count, static_cast<Number*>(to));
    return;
  }
  detail::for_narrow(dtype, [&](auto narrow) {
    auto* stored = static_cast<decltype(narrow)*>(to);
    for (std::int64_t i = 0; i < count; ++i) stored[i] = static_cast<float>(from[i]);
  });
}

/// `count` numbers that `store` wrote: where they lie, or widened in `scratch`.
template <class Number> const Number* load(const void* from, std::int64_t count, c10::ScalarType dtype, std::vector<Number>& scratch) {
  if (!is_narrow(dtype)) return static_cast<const Number*>(from);
  scratch.resize(static_cast<std::size_t>(count));
  detail::for_narrow(dtype, [&](auto narrow) {
    const auto* stored = static_cast<const decltype(narrow)*>(from);
    for (std::int64_t i = 0; i < count; ++i) scratch[static_cast<std::size_t>(i)] = static_cast<float>(stored[i]);
  });
  return scratch.data();
}

}  // namespace rookery::kernels
