// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Tokens as numbers: codes in order of first sight while a file is read, rows in order of their bytes once it is known whole.
//
// Sorted order makes a table's rows independent of the order of the file's lines. Hashed rows need no vocabulary.  Include cost: none.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rookery {

/// FNV-1a in 64 bits (Fowler, Noll and Vo; isthe.com/chongo/tech/comp/fnv), of a text or, given the hash of its beginning, of its rest.
constexpr std::uint64_t fnv1a(std::string_view text, std::uint64_t hash = 0xcbf29ce484222325) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// The row of a token in a table of hashed rows: FNV-1a of the seed's eight bytes, the least first, and the token's, modulo the rows.
/// A model's rows mean what they meant when it was trained, so this never changes.
constexpr std::int64_t hashed_row(std::string_view token, std::uint64_t seed, std::int64_t rows) {
  char bytes[8] = {};
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(seed >> (8 * i) & 0xff);
  return static_cast<std::int64_t>(fnv1a(token, fnv1a({bytes, 8})) % static_cast<std::uint64_t>(rows));
}

/// Distinct texts, numbered as they come.
class Tokens {
 public:
  /// The code of a text, a new one if it has none yet.
  std::int64_t add(std::string_view text) {
    if (const auto found = codes_.find(text); found != codes_.end()) return found->second;
    const auto [added, fresh] = codes_.emplace(std::string(text), size());
    texts_.push_back(&added->first);
    return added->second;
  }
  /// The code of a text, -1 if it has none.
  std::int64_t find(std::string_view text) const {
    const auto found = codes_.find(text);
    return found == codes_.end() ? -1 : found->second;
  }

  std::string_view operator[](std::int64_t code) const { return *texts_[static_cast<std::size_t>(code)]; }
  std::int64_t size() const { return static_cast<std::int64_t>(texts_.size()); }

  /// For each code its place among the texts that `is_used(code)` says yes to, sorted by their bytes; -1 for the others.
  template <class IsUsed> std::vector<std::int64_t> sorted_rows(IsUsed&& is_used) const {
    std::vector<std::int64_t> used;
    for (std::int64_t code = 0; code < size(); ++code)
      if (is_used(code)) used.push_back(code);
    std::ranges::sort(used, {}, [&](std::int64_t code) { return (*this)[code]; });
    std::vector<std::int64_t> rows(texts_.size(), -1);
    for (std::size_t row = 0; row < used.size(); ++row) rows[static_cast<std::size_t>(used[row])] = static_cast<std::int64_t>(row);
    return rows;
  }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  std::unordered_map<std::string, std::int64_t, Hash, std::equal_to<>> codes_;
  std::vector<const std::string*> texts_;          // the keys of codes_, which stay where they are
};

}  // namespace rookery
