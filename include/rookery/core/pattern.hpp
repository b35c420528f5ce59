// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// matches_pattern: names of parameters by pattern, as loggers and optimizers choose them.
//
// A pattern is a full name in which each `*` stands for any text, dots included: "over.*", "*.bias".  Include cost: none.

#include <cstddef>
#include <string_view>

namespace rookery {

/// Whether `name` is what `pattern` says.
constexpr bool matches_pattern(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != std::string_view::npos) {               // let the last star take one character more
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace rookery
