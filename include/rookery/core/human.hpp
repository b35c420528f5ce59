// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Numbers for people: bytes, counts, durations, and columns of text. Exact numbers are `concat`'s.  Include cost: none (no fmt).

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

/// A number with `digits` significant digits and no trailing zeros: 0.5123, 1.5e-07, nan.
inline std::string human_number(double value, int digits = 4) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, value, std::chars_format::general, digits).ptr};
}

namespace detail {

/// `value` in the largest unit that leaves at least 1, with three digits, or four just below the next unit.
inline std::string scaled(double value, double base, std::initializer_list<std::string_view> units) {
  auto unit = units.begin();
  while (std::abs(value) >= base && unit + 1 != units.end()) value /= base, ++unit;
  return concat(human_number(value, std::abs(value) < 999.5 ? 3 : 4), *unit);
}

}  // namespace detail

/// "640 B", "1.5 GiB"
inline std::string human_bytes(std::int64_t bytes) {
  return detail::scaled(static_cast<double>(bytes), 1024, {" B", " KiB", " MiB", " GiB", " TiB", " PiB"});
}

/// "950", "12.3k", "4.56M"
inline std::string human_count(double count) { return detail::scaled(count, 1000, {"", "k", "M", "G", "T"}); }

/// "0:07", "12:34", "1:02:03"; "-" for what is no time.
inline std::string human_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e12) return "-";
  const auto whole = static_cast<std::int64_t>(seconds + .5), hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  const auto two = [](std::int64_t n) { return concat(n < 10 ? "0" : "", n); };
  return hours > 0 ? concat(hours, ":", two(minutes), ":", two(rest)) : concat(minutes, ":", two(rest));
}

/// Rows of cells as lines of aligned columns, the first to the left and the others to the right. Width counts bytes.
inline std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (c == widths.size()) widths.push_back(0);
      widths[c] = std::max(widths[c], row[c].size());
    }
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string space(widths[c] - row[c].size(), ' ');
      if (c == 0) text += row.size() > 1 ? row[c] + space : row[c];
      else text += concat("  ", space, row[c]);
    }
    text += '\n';
  }
  return text;
}

}  // namespace rookery
