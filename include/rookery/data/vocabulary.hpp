// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Tokens as numbers: codes in order of first sight while a file is read, rows in order of their bytes once it is known whole.
//
// Sorted order makes a table's rows independent of the order of the file's lines. Hashed rows need no vocabulary.  Include cost: none.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>

namespace rookery {

/// FNV-1a in 64 bits (Fowler, Noll and Vo; isthe.com/chongo/tech/comp/fnv), of a text or, given the hash of its beginning, of its rest.
constexpr std::uint64_t fnv1a(std::string_view text, std::uint64_t hash = 0xcbf29ce484222325) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// The row of a token, a text, in a table of hashed rows: FNV-1a of the seed's eight bytes, the least first, and the token's, modulo the
/// rows. The hashed_row of an id, in sparse/transforms.hpp, and criteo_row follow laws of their own: the text "7" is hashed otherwise than
/// the id 7. A model's rows mean what they meant when it was trained, so this never changes.
constexpr std::int64_t hashed_row(std::string_view token, std::int64_t rows, std::uint64_t seed = 0) {
  char bytes[8] = {};
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(seed >> (8 * i) & 0xff);
  return static_cast<std::int64_t>(fnv1a(token, fnv1a({bytes, 8})) % static_cast<std::uint64_t>(rows));
}

/// Distinct texts, numbered as they come. At most 2^32 - 2 of them.
class Tokens {
 public:
  /// The code of a text, a new one if it has none yet.
  std::int64_t add(std::string_view text) { return add(text, hash_of(text)); }
  std::int64_t add(std::string_view text, std::uint32_t hash) {
    if (2 * texts_.size() >= slots_.size()) grow();
    auto& slot = slots_[place_of(text, hash)];
    if (slot.code == none) {
      check<DataError>(texts_.size() < none, "a column of more than ", none, " different tokens");
      slot = {hash, static_cast<std::uint32_t>(texts_.size())};
      texts_.emplace_back(text);
    }
    return slot.code;
  }
  /// The code of a text, -1 if it has none.
  std::int64_t find(std::string_view text) const {
    if (slots_.empty()) return -1;
    const auto code = slots_[place_of(text, hash_of(text))].code;
    return code == none ? -1 : std::int64_t{code};
  }

  // A large vocabulary lies outside the caches. Who has several texts to add asks for their slots, then for what is there, then adds them.
  static std::uint32_t hash_of(std::string_view text) {
    std::uint64_t hash = text.size();
    for (; text.size() > 8; text.remove_prefix(8)) hash = mix64(hash ^ start_of(text));
    return static_cast<std::uint32_t>(mix64(hash ^ start_of(text)) >> 32);
  }
  void prefetch_slot(std::uint32_t hash) const {
    if (!slots_.empty()) __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]);
  }
  void prefetch_text(std::uint32_t hash) const {
    if (slots_.empty()) return;
    if (const auto code = slots_[hash & (slots_.size() - 1)].code; code != none) __builtin_prefetch(&texts_[code]);
  }

  /// The text of a code; valid until the next call of add().
  std::string_view operator[](std::int64_t code) const { return texts_[static_cast<std::size_t>(code)]; }
  std::int64_t size() const { return static_cast<std::int64_t>(texts_.size()); }

  /// For each code its place among the texts that `is_used(code)` says yes to, sorted by their bytes; -1 for the others.
  template <class IsUsed> std::vector<std::int64_t> sorted_rows(IsUsed&& is_used) const {
    struct Used {
      std::uint64_t start;  // of the text: its order is the text's where two differ
      std::int64_t code;
    };
    std::vector<Used> used;
    for (std::int64_t code = 0; code < size(); ++code)
      if (is_used(code)) used.push_back({start_of((*this)[code]), code});
    std::sort(used.begin(), used.end(), [&](const Used& a, const Used& b) {
      return a.start != b.start ? a.start < b.start : (*this)[a.code] < (*this)[b.code];
    });
    std::vector<std::int64_t> rows(texts_.size(), -1);
    for (std::size_t row = 0; row < used.size(); ++row) rows[static_cast<std::size_t>(used[row].code)] = static_cast<std::int64_t>(row);
    return rows;
  }

 private:
  static constexpr std::uint32_t none = ~std::uint32_t{0};
  struct Slot {
    std::uint32_t hash = 0, code = none;
  };

  /// Up to eight bytes as a number of the order of texts: the first byte counts most.
  static std::uint64_t start_of(std::string_view text) {
    std::uint64_t start = 0;
    if (!text.empty()) std::memcpy(&start, text.data(), std::min<std::size_t>(text.size(), 8));
    return std::endian::native == std::endian::little ? __builtin_bswap64(start) : start;
  }
  /// The slot of a text, or the free one where it belongs.
  std::size_t place_of(std::string_view text, std::uint32_t hash) const {
    auto place = hash & (slots_.size() - 1);
    while (slots_[place].code != none && (slots_[place].hash != hash || texts_[slots_[place].code] != text))
      place = (place + 1) & (slots_.size() - 1);
    return place;
  }

  void grow() {
    std::vector<Slot> old(std::max<std::size_t>(64, 2 * slots_.size()));
    old.swap(slots_);
    for (const auto& slot : old) {
      if (slot.code == none) continue;
      auto place = slot.hash & (slots_.size() - 1);
      while (slots_[place].code != none) place = (place + 1) & (slots_.size() - 1);
      slots_[place] = slot;
    }
  }

  std::vector<Slot> slots_;  // a power of two of them, at most half used; searched linearly
  std::vector<std::string> texts_;  // short ones lie in place: a look at one is one miss of the caches
};

}  // namespace rookery
