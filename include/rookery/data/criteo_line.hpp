// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// One line of the Criteo click logs: a label, 13 integers and 26 ids of up to 8 hexadecimal digits, tabs between them; any but the label
// may be missing.
//
// Torch-free over a span of bytes, so that a fuzzer links it in seconds.
// Answers to torchrec/datasets/criteo.py, whose float and int32 columns turn 0xffffffff into -1.  Include cost: none.

#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>

namespace rookery {

/// What a line holds. A missing number is 0 and its bit of `missing` set: bits 0 to 12 for the integers, 13 to 38 for the ids.
struct CriteoLine {
  static constexpr std::size_t num_integers = 13, num_ids = 26;

  int label = 0;                                     // 0 or 1
  std::array<std::int64_t, num_integers> integers = {};
  std::array<std::uint32_t, num_ids> ids = {};       // unsigned: 0xffffffff is an id like any other
  std::uint64_t missing = 0;

  bool integer_missing(std::size_t i) const { return missing >> i & 1; }
  bool id_missing(std::size_t i) const { return missing >> (num_integers + i) & 1; }
};

/// What is wrong with a line: why, and in which column, from 1; 0 where it is the number of columns.
struct CriteoMistake {
  std::size_t column = 0;
  std::string why = {};                              // empty: nothing
};

/// The name of a column, from 1: "label", "I1" to "I13", "C1" to "C26".
inline std::string criteo_column(std::size_t column, bool has_label = true) {
  if (has_label && column == 1) return "label";
  const auto number = column - (has_label ? 1 : 0);
  return number <= CriteoLine::num_integers ? concat("I", number) : concat("C", number - CriteoLine::num_integers);
}

namespace detail {

/// Eight hexadecimal digits, or nothing sensible and `bad` set. All eight at once: a byte's high nibble says which of '0'-'9', 'A'-'F',
/// 'a'-'f' it may be, and what is left over is checked against each range.
inline std::uint32_t eight_hex_digits(const char* text, bool& bad) {
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, text, 8);
  if constexpr (std::endian::native == std::endian::big) bytes = __builtin_bswap64(bytes);
  constexpr std::uint64_t ones = 0x0101010101010101ULL, high = 0x80 * ones;
  const auto lower = bytes | 0x20 * ones;                                // letters in lower case, digits as they are
  // Per byte, bytes below 0x80: x + (0x80 - n) has the high bit where x >= n.
  const auto plain = lower & ~high;
  const auto at_least = [&](std::uint64_t n) { return plain + (0x80 - n) * ones; };
  const auto digit = at_least('0') & ~at_least('9' + 1) & high, letter = at_least('a') & ~at_least('f' + 1) & high;
  const auto low_digit = digit & (bytes << 3 & bytes << 2);              // a digit as it came: 0x30 to 0x39, not 0x10 to 0x19
  bad = ((low_digit | letter) & ~bytes & high) != high;
  const auto nibbles = (lower & 0x0f * ones) + (letter >> 7) * 9;        // the byte of the first digit is the least
  auto joined = (nibbles << 4 | nibbles >> 8) & 0x00ff00ff00ff00ffULL;
  joined = (joined << 8 | joined >> 16) & 0x0000ffff0000ffffULL;
  return static_cast<std::uint32_t>(joined << 16 | joined >> 32);
}

inline int hex_digit(char c) {
  if ('0' <= c && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return 'a' <= lower && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// Reads a line's fields one after the other.
class CriteoFields {
 public:
  CriteoFields(std::string_view line, bool has_label) : at_(line.data()), end_(at_ + line.size()), has_label_(has_label) {}

  CriteoMistake read(CriteoLine& line) {
    line.missing = 0;
    if (has_label_ && !label(line)) return std::move(mistake_);
    for (std::size_t i = 0; i < CriteoLine::num_integers; ++i)
      if (!integer(line, i)) return std::move(mistake_);
    for (std::size_t i = 0; i < CriteoLine::num_ids; ++i)
      if (!id(line, i)) return std::move(mistake_);
    if (at_ <= end_) wrong_count("the line has more than ", last_column(), " columns");
    return std::move(mistake_);
  }

 private:
  std::size_t last_column() const { return CriteoLine::num_integers + CriteoLine::num_ids + (has_label_ ? 1 : 0); }

  /// Whether there is another field.
  bool begin() {
    ++column_;
    if (at_ <= end_) return true;
    return wrong_count("the line has ", column_ - 1, " of ", last_column(), " columns");
  }
  /// Whether the field is empty; goes on to the next one then.
  bool empty() {
    if (at_ != end_ && *at_ != '\t') return false;
    ++at_;
    return true;
  }
  /// Goes on behind the field that ends at `stop`.
  bool end(const char* stop) {
    if (stop != end_ && *stop != '\t') return false;
    at_ = stop + 1;
    return true;
  }
  template <class... Parts> [[gnu::noinline, gnu::cold]] bool wrong(const Parts&... parts) {
    mistake_ = {column_, concat(parts...)};
    return false;
  }
  template <class... Parts> [[gnu::noinline, gnu::cold]] bool wrong_count(const Parts&... parts) {
    column_ = 0;
    return wrong(parts...);
  }
  [[gnu::noinline, gnu::cold]] bool wrong_field(std::string_view what) {
    const auto* stop = static_cast<const char*>(std::memchr(at_, '\t', static_cast<std::size_t>(end_ - at_)));
    return wrong(shown({at_, static_cast<std::size_t>((stop ? stop : end_) - at_)}), " ", what);
  }

  bool label(CriteoLine& line) {
    if (!begin()) return false;
    const char* field = at_;
    if (empty()) return wrong("the label is missing; lines without labels have no column for it and are read with has_label = false");
    line.label = *field - '0';
    return (line.label == 0 || line.label == 1) && end(field + 1) ? true : wrong_field("is not 0 or 1");
  }
  bool integer(CriteoLine& line, std::size_t i) {
    if (!begin()) return false;
    line.integers[i] = 0;
    if (empty()) {
      line.missing |= std::uint64_t{1} << i;
      return true;
    }
    const auto [stop, error] = std::from_chars(at_, end_, line.integers[i]);
    if (error == std::errc::result_out_of_range) return wrong_field("is outside the range of 64-bit integers");
    return error == std::errc{} && end(stop) ? true : wrong_field("is not an integer");
  }
  bool id(CriteoLine& line, std::size_t i) {
    if (!begin()) return false;
    line.ids[i] = 0;
    if (empty()) {
      line.missing |= std::uint64_t{1} << (CriteoLine::num_integers + i);
      return true;
    }
    if (end_ - at_ >= 8) {
      bool bad = false;
      line.ids[i] = eight_hex_digits(at_, bad);
      if (!bad) return end(at_ + 8) ? true : wrong_field("is not an id of at most 8 hexadecimal digits");
    }
    return short_id(line.ids[i]);
  }
  bool short_id(std::uint32_t& id) {
    id = 0;
    const char* stop = at_;
    for (; stop != end_ && stop != at_ + 8 && hex_digit(*stop) >= 0; ++stop) id = id << 4 | static_cast<std::uint32_t>(hex_digit(*stop));
    return stop != at_ && end(stop) ? true : wrong_field("is not an id of at most 8 hexadecimal digits");
  }

  const char *at_, *end_;
  bool has_label_;
  std::size_t column_ = 0;
  CriteoMistake mistake_;
};

}  // namespace detail

/// Reads a line, given without its end. Upper and lower case digits mean the same. What `line` held before does not matter.
inline CriteoMistake parse_criteo_line(std::string_view text, CriteoLine& line, bool has_label = true) {
  return detail::CriteoFields(text, has_label).read(line);
}

}  // namespace rookery
