// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// mix64: spreads a 64-bit number over all its bits.  Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
// Include cost: none.

#include <cstdint>

namespace rookery {

/// A bijection of 64-bit numbers in which each input bit changes half of the output's. The same on every machine and version.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace rookery
