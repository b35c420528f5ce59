// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The header of a .npy file, versions 1 to 3: what the numbers are, and how many.
//
// Torch-free over bytes, so that a fuzzer links it in seconds. The format: numpy.org, "NEP 1, a simple file format for NumPy arrays".
// Include cost: none.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>

namespace rookery {

/// The kinds of numbers that are read.
enum class NpyType { float32, float64, boolean, int8, int16, int32, int64, uint8, uint16, uint32, uint64 };

namespace detail {

/// How a header calls a kind of numbers, and the bytes of one.
struct NpyDtype {
  std::string_view name;
  NpyType type;
  std::int64_t size;
};
inline constexpr NpyDtype npy_dtypes[] = {
    {"<f4", NpyType::float32, 4}, {"<f8", NpyType::float64, 8}, {"|b1", NpyType::boolean, 1}, {"|i1", NpyType::int8, 1},
    {"<i1", NpyType::int8, 1},    {"<i2", NpyType::int16, 2},   {"<i4", NpyType::int32, 4},   {"<i8", NpyType::int64, 8},
    {"|u1", NpyType::uint8, 1},   {"<u1", NpyType::uint8, 1},   {"<u2", NpyType::uint16, 2},  {"<u4", NpyType::uint32, 4},
    {"<u8", NpyType::uint64, 8}};

}  // namespace detail

constexpr std::int64_t size_of(NpyType type) {
  for (const auto& dtype : detail::npy_dtypes)
    if (dtype.type == type) return dtype.size;
  return 0;
}

struct NpyHeader {
  NpyType type = NpyType::float32;
  std::vector<std::int64_t> shape;
  std::size_t data_begin = 0;     // bytes before the numbers
  std::int64_t data_bytes = 0;    // of the numbers
};

namespace detail {

/// Reads the dictionary of a header: a literal of Python with three known keys.
class NpyDictionary {
 public:
  NpyDictionary(std::string_view text, std::string_view name) : text_(text), name_(name) {}

  NpyHeader read() {
    NpyHeader header;
    expect('{');
    bool seen[3] = {};
    while (!next_is('}')) {
      const auto key = quoted();
      const auto index = key == "descr" ? 0 : key == "fortran_order" ? 1 : key == "shape" ? 2 : 3;
      if (index == 3) fail<DataError>(name_, ": the header has a key ", shown(key));
      if (seen[index]) fail<DataError>(name_, ": the header has '", key, "' twice");
      seen[index] = true;
      expect(':');
      if (index == 0) header.type = type();
      if (index == 1) refuse_columns_first();
      if (index == 2) header.shape = shape();
      if (!next_is(',')) {
        expect('}');
        break;
      }
    }
    for (const int index : {0, 1, 2})
      if (!seen[index]) fail<DataError>(name_, ": the header lacks '", index == 0 ? "descr" : index == 1 ? "fortran_order" : "shape", "'");
    skip_space();
    if (at_ != text_.size()) wrong("nothing more");
    return header;
  }

 private:
  [[noreturn]] void wrong(std::string_view wanted) const {
    fail<DataError>(name_, ": the header has ", at_ < text_.size() ? shown(text_.substr(at_)) : "its end", " where ", wanted, " belongs");
  }
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
  bool next_is(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!next_is(c)) wrong(concat("'", c, "'"));
  }

  std::string_view quoted() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : ' ';
    if (quote != '\'' && quote != '"') wrong("a text in quotes");
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) wrong("a text in quotes");
    const auto text = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return text;
  }

  NpyType type() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '[')
      fail<DataError>(name_, ": records of several fields are not read; save each field as an array");
    const auto name = quoted();
    for (const auto& dtype : npy_dtypes)
      if (name == dtype.name) return dtype.type;
    if (name.starts_with('>')) fail<DataError>(name_, ": numbers of dtype ", shown(name), " are big-endian; save them as little-endian");
    if (name.ends_with('O')) fail<DataError>(name_, ": dtype ", shown(name), " holds Python objects; save numbers");
    fail<DataError>(name_, ": dtype ", shown(name), " is not read; save float32, float64, bool or integers");
  }

  void refuse_columns_first() {
    skip_space();
    const auto rest = text_.substr(at_);
    if (rest.starts_with("True")) fail<DataError>(name_, ": the array is in Fortran order; save numpy.ascontiguousarray of it");
    if (!rest.starts_with("False")) wrong("True or False");
    at_ += 5;
  }

  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!next_is(')')) {
      skip_space();
      std::int64_t size = 0;
      const auto [stop, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error == std::errc::result_out_of_range) fail<DataError>(name_, ": the shape has a number beyond 64 bits");
      if (error != std::errc{} || size < 0) wrong("a size");
      at_ = static_cast<std::size_t>(stop - text_.data());
      sizes.push_back(size);
      if (!next_is(',')) {
        expect(')');
        break;
      }
    }
    return sizes;
  }

  std::string_view text_, name_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// Reads the header out of a file's first bytes; `name` is the file's, for messages.
/// Errors: DataError for bytes that are no header, another version, order, byte order or dtype, and a shape of more bytes than 2^63.
inline NpyHeader parse_npy_header(std::string_view bytes, std::string_view name) {
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
  check<DataError>(bytes.size() >= 10 && bytes.starts_with("\x93NUMPY"), name, ": not a .npy file");
  const auto format = byte(6);
  check<DataError>(1 <= format && format <= 3 && byte(7) == 0, name, ": version ", format, ".", byte(7),
                   " of the format; known are 1.0, 2.0 and 3.0");
  const std::size_t begin = format == 1 ? 10 : 12;
  check<DataError>(bytes.size() >= begin, name, ": the file ends within its header");
  auto size = byte(8) | byte(9) << 8;
  if (format > 1) size |= byte(10) << 16 | byte(11) << 24;
  check<DataError>(size <= bytes.size() - begin, name, ": the header is said to be of ", size, " bytes, and ", bytes.size() - begin,
                   " are there");
  auto header = detail::NpyDictionary(bytes.substr(begin, size), name).read();
  header.data_begin = begin + size;
  header.data_bytes = size_of(header.type);
  bool too_large = false;
  for (const auto extent : header.shape)
    if (extent > 0) too_large = __builtin_mul_overflow(header.data_bytes, extent, &header.data_bytes) || too_large;
  check<DataError>(!too_large, name, ": an array of shape ", header.shape, " is larger than 2^63 bytes");
  if (std::find(header.shape.begin(), header.shape.end(), 0) != header.shape.end()) header.data_bytes = 0;
  return header;
}

}  // namespace rookery
