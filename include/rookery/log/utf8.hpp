// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// valid_utf8: text for formats that take nothing but UTF-8, whatever bytes a name was made of.
//
// Source: RFC 3629.  Include cost: none.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace rookery {

namespace detail {

/// Length of the well-formed UTF-8 character that `text` starts with, 0 when it starts with none (RFC 3629).
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto follows = [&](std::size_t i) { return byte(i) >= 0x80 && byte(i) < 0xC0; };
  const auto first = byte(0), second = byte(1);
  if (first < 0x80) return text.empty() ? 0 : 1;
  if (first >= 0xC2 && first < 0xE0) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first < 0xF0) {
    const bool shortest = first != 0xE0 || second >= 0xA0, no_surrogate = first != 0xED || second < 0xA0;
    return follows(1) && follows(2) && shortest && no_surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first < 0xF5) {
    const bool shortest = first != 0xF0 || second >= 0x90, in_range = first != 0xF4 || second < 0x90;
    return follows(1) && follows(2) && follows(3) && shortest && in_range ? 4 : 0;
  }
  return 0;
}

}  // namespace detail

/// The text with U+FFFD for each byte that is of no well-formed character.
inline std::string valid_utf8(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto length = detail::utf8_length(text.substr(i));
    if (length == 0) out += "\xEF\xBF\xBD";
    else out.append(text, i, length);
    i += std::max<std::size_t>(length, 1);
  }
  return out;
}

}  // namespace rookery
