// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Narrow: numbers as float16 or bfloat16 on the way between ranks, and back.
//
// Answers to torchrec's quantised communication codecs; differs: the cast is part of the loop that writes or reads the numbers
// anyway.  Include cost: none (c10 scalar types only).

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rookery::kernels {

inline bool is_narrow(c10::ScalarType dtype) { return dtype == c10::ScalarType::Half || dtype == c10::ScalarType::BFloat16; }

/// Writes `count` numbers as `dtype`, rounded to the nearest where that is a narrow one; else as they are. Numbers beyond float16's
/// range become infinite.
template <class Number> void store(const Number* from, std::int64_t count, c10::ScalarType dtype, void* to) {
  const auto as = [&](auto zero) {
    auto* stored = static_cast<decltype(zero)*>(to);
    for (std::int64_t i = 0; i < count; ++i) stored[i] = static_cast<float>(from[i]);
  };
  if (dtype == c10::ScalarType::Half) as(c10::Half{});
  else if (dtype == c10::ScalarType::BFloat16) as(c10::BFloat16{});
  else std::copy_n(from, count, static_cast<Number*>(to));
}

/// `count` numbers that `store` wrote: where they lie, or widened in `scratch`.
template <class Number> const Number* load(const void* from, std::int64_t count, c10::ScalarType dtype, std::vector<Number>& scratch) {
  if (!is_narrow(dtype)) return static_cast<const Number*>(from);
  scratch.resize(static_cast<std::size_t>(count));
  const auto as = [&](auto zero) {
    const auto* stored = static_cast<const decltype(zero)*>(from);
    for (std::int64_t i = 0; i < count; ++i) scratch[static_cast<std::size_t>(i)] = static_cast<float>(stored[i]);
  };
  dtype == c10::ScalarType::Half ? as(c10::Half{}) : as(c10::BFloat16{});
  return scratch.data();
}

}  // namespace rookery::kernels
