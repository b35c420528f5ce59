// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// mix64 spreads a 64-bit number over all its bits; hash_bytes makes one of a text. Both are the same on every machine and version.
//
// Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014); FNV-1a (Fowler, Noll, Vo).  Include cost: none.

#include <cstdint>
#include <string_view>

namespace rookery {

/// A bijection of 64-bit numbers in which each input bit changes half of the output's.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// FNV-1a of these bytes, from a start that another hash may have given. Texts that someone makes up to collide do.
constexpr std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t start = 0xcbf29ce484222325ULL) {
  for (const char c : bytes) start = (start ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return start;
}

}  // namespace rookery
