// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected; RFC 3720, B.4): the checksum of TFRecord frames, and so of TensorBoard's files.
//
// LibTorch ships CRC-32 and CRC-64 of other polynomials only.  Include cost: none.

#include <array>
#include <cstdint>
#include <string_view>

namespace rookery {

namespace detail {

inline constexpr auto crc32c_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    auto value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1U) ^ (value & 1U ? 0x82F63B78U : 0U);
    table[byte] = value;
  }
  return table;
}();

}  // namespace detail

/// The checksum of these bytes; of "123456789" it is 0xE3069283.
inline std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t value = ~0U;
  for (const char c : bytes) value = detail::crc32c_table[(value ^ static_cast<unsigned char>(c)) & 0xFFU] ^ (value >> 8U);
  return ~value;
}

/// As TFRecord stores it: rotated and shifted, so that a checksum of data which holds checksums stays a good one.
inline std::uint32_t masked_crc32c(std::string_view bytes) {
  const auto value = crc32c(bytes);
  return ((value >> 15U) | (value << 17U)) + 0xA282EAD8U;
}

}  // namespace rookery
