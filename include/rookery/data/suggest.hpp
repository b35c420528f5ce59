// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A hint for a name that does not exist: the nearest one that does, or all there are.  Include cost: none.

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// Characters to insert, delete or replace to turn one text into the other (Levenshtein).
inline std::size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<std::size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < from.size(); ++i) {
    auto diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < to.size(); ++j)
      diagonal = std::exchange(row[j + 1], std::min({row[j + 1] + 1, row[j] + 1, diagonal + (from[i] != to[j])}));
  }
  return row.back();
}

}  // namespace detail

/// `; did you mean 'rating'?` where a name is near, else `; there are [a, b]`.
inline std::string suggestion(std::string_view name, std::span<const std::string> names) {
  if (names.empty()) return "";
  const auto* nearest = &names[0];
  auto edits = detail::edit_distance(name, *nearest);
  for (const auto& other : names.subspan(1))
    if (const auto distance = detail::edit_distance(name, other); distance < edits) {
      nearest = &other;
      edits = distance;
    }
  if (edits <= std::max<std::size_t>(2, name.size() / 3) && edits < name.size()) return concat("; did you mean '", *nearest, "'?");
  return concat("; there are ", names);
}

}  // namespace rookery
