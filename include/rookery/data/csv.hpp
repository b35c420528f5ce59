// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Records and fields of CSV and TSV text, and the numbers in them.
//
// RFC 4180 as files have it: quoted fields with separators, line ends and doubled quotes inside, CRLF or LF, a missing end of the last
// line, a byte order mark. Torch-free over std::string_view, so that a fuzzer links it in seconds.  Include cost: none.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// A text for a message: quoted, its end left out where it is long.
inline std::string shown(std::string_view text) {
  constexpr std::size_t most = 60;
  return concat("'", text.substr(0, most), text.size() > most ? "...'" : "'");
}

}  // namespace detail

/// Where a value stands, for messages.
struct Cell {
  std::string_view file;
  std::int64_t line = 0;
  std::string_view column;
  std::string_view text;

  /// Throws `ratings.csv:17: column 'rating': 'abc' is not a number`.
  template <class... Parts> [[noreturn]] void refuse(const Parts&... parts) const {
    fail<DataError>(file, ":", line, ": column '", column, "': ", detail::shown(text), " ", parts...);
  }
};

/// The number that the whole of a text is, in C's notation without spaces or a leading +. Errors: DataError for anything else, with
/// `or_what` it could be besides, infinities and what a double cannot hold.
inline double number_of(const Cell& cell, std::string_view or_what = "") {
  double number = 0;
  const auto* end = cell.text.data() + cell.text.size();
  const auto [stop, error] = std::from_chars(cell.text.data(), end, number);
  if (error == std::errc::result_out_of_range && stop == end) cell.refuse("is outside the range of a double");
  if (error != std::errc{} || stop != end) cell.refuse("is not a number", or_what);
  if (!std::isfinite(number)) cell.refuse("is not a finite number");
  return number;
}

/// The integer that the whole of a text is. Errors: DataError for anything else and what 64 bits cannot hold.
inline std::int64_t integer_of(const Cell& cell) {
  std::int64_t number = 0;
  const auto* end = cell.text.data() + cell.text.size();
  const auto [stop, error] = std::from_chars(cell.text.data(), end, number);
  if (error == std::errc::result_out_of_range && stop == end) cell.refuse("is outside the range of 64-bit integers");
  if (error != std::errc{} || stop != end) cell.refuse("is not an integer");
  return number;
}

/// How fields are told apart.
struct CsvFormat {
  std::string separator = ",";      // one or more characters
  std::optional<char> quote = '"';  // none: a quote is a character like any other
};

/// Reads records one by one out of text that outlives it. Lines with nothing on them are left out.
///
/// A field is quoted if a quote is its first character; within it two quotes stand for one. Elsewhere quotes are ordinary. The text may
/// come in pieces: where next() says false and the piece was not the last, the next one starts with what `unread()` left of this one.
/// Errors: DataError, naming file and line, for a quote that is never closed, text between a closing quote and the separator, a NUL byte.
/// Cost: one pass; a field is a view of the text unless it has doubled quotes.
class CsvReader {
 public:
  CsvReader(std::string_view text, std::string name, CsvFormat format = {}) : CsvReader(std::move(name), std::move(format)) {
    give(text, true);
  }
  /// Without text yet: `give` brings it.
  explicit CsvReader(std::string name, CsvFormat format = {}) : name_(std::move(name)), format_(std::move(format)) {
    check<ConfigError>(!format_.separator.empty(), name_, ": the separator is empty");
    check<ConfigError>(format_.separator.find_first_of(std::string_view("\n\r\0", 3)) == std::string::npos, name_,
                       ": the separator holds a line end or NUL");
    check<ConfigError>(!format_.quote || format_.separator.find(*format_.quote) == std::string::npos, name_,
                       ": the separator holds the quote");
  }

  /// The next piece of the text: what was unread, and more.
  void give(std::string_view text, bool is_last) {
    text_ = text;
    is_last_ = is_last;
    at_ = is_first_ && text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
    is_first_ = is_first_ && !is_last && text.size() < 3;  // no record ends in so few bytes of a piece that is not the last
  }
  /// What of the piece no record has used.
  std::string_view unread() const { return text_.substr(std::min(at_, text_.size())); }
  bool is_last() const { return is_last_; }

  /// Moves to the next record; false when there is none, or when it may go on in the next piece.
  bool next() {
    const auto start = at_;
    const auto line = line_;
    fields_.clear();
    unescaped_.clear();
    if (read_record() && !cut_off()) return true;
    if (is_last_) return false;
    at_ = start;
    line_ = line;
    fields_.clear();
    return false;
  }

  /// The fields of the record; valid until the next call of next().
  std::span<const std::string_view> fields() const { return fields_; }
  /// The line that the record starts on, from 1.
  std::int64_t line() const { return record_line_; }
  const std::string& name() const { return name_; }

 private:
  bool read_record() {
    while (at_ < text_.size() && at_line_end()) end_line();
    if (at_ >= text_.size()) return false;
    record_line_ = line_;
    while (true) {
      fields_.push_back(format_.quote && at_ < text_.size() && text_[at_] == *format_.quote ? quoted_field() : plain_field());
      if (at_ >= text_.size()) return true;
      if (at_line_end()) {
        end_line();
        return true;
      }
      at_ += format_.separator.size();
    }
  }
  /// Whether what was read up to here may read otherwise with the next piece behind it: a separator or CRLF may be cut in two.
  bool cut_off() const { return !is_last_ && at_ + format_.separator.size() + 1 > text_.size(); }

  bool at_line_end() const { return text_[at_] == '\n' || (text_[at_] == '\r' && (at_ + 1 == text_.size() || text_[at_ + 1] == '\n')); }
  void end_line() {
    at_ += text_[at_] == '\r' ? 2 : 1;  // beyond the end after a last, lone CR: tested with >=
    ++line_;
  }
  bool at_separator() const { return text_.substr(at_).starts_with(format_.separator); }

  std::string_view plain_field() {
    const auto start = at_;
    const char first = format_.separator[0];
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == first && at_separator()) break;
      if ((c == '\n' || c == '\r') && at_line_end()) break;
      if (c == '\0') fail<DataError>(name_, ":", line_, ": a NUL byte: the file is not text");
    }
    return text_.substr(start, at_ - start);
  }

  std::string_view quoted_field() {
    const char quote = *format_.quote;
    const auto start = ++at_;
    bool doubled = false;
    for (;; ++at_) {
      if (at_ >= text_.size() && !is_last_) return {};
      if (at_ >= text_.size()) fail<DataError>(name_, ":", record_line_, ": a quoted field is not closed before the end of the file");
      if (text_[at_] == '\n') ++line_;
      if (text_[at_] == '\0') fail<DataError>(name_, ":", line_, ": a NUL byte: the file is not text");
      if (text_[at_] != quote) continue;
      if (at_ + 1 == text_.size() || text_[at_ + 1] != quote) break;
      doubled = true;
      ++at_;
    }
    const auto inside = text_.substr(start, at_ - start);
    ++at_;
    if (at_ < text_.size() && !at_line_end() && !at_separator()) {
      if (cut_off()) {
        at_ = text_.size();
        return {};
      }
      fail<DataError>(name_, ":", record_line_, ": the quoted field ", detail::shown(inside), " is followed by ",
                      detail::shown(text_.substr(at_, text_.find_first_of("\r\n", at_) - at_)),
                      "; a separator or the end of the line belongs there");
    }
    return doubled ? unescape(inside) : inside;
  }

  std::string_view unescape(std::string_view inside) {
    auto& plain = unescaped_.emplace_back();  // a deque: earlier views stay where they are
    for (std::size_t i = 0; i < inside.size(); ++i) {
      plain += inside[i];
      if (inside[i] == *format_.quote) ++i;
    }
    return plain;
  }

  std::string_view text_;
  std::string name_;
  CsvFormat format_;
  std::vector<std::string_view> fields_;
  std::deque<std::string> unescaped_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1, record_line_ = 1;
  bool is_first_ = true, is_last_ = true;
};

}  // namespace rookery
