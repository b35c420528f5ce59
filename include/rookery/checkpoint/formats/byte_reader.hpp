// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ByteReader: numbers and names out of bytes that may be anything; nothing is read beyond them.  Include cost: none.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <rookery/core/error.hpp>

namespace rookery {

using Bytes = std::span<const std::byte>;

/// Reads from the front. `what` says in errors what is read. Errors: DataError where the bytes end too early.
class ByteReader {
 public:
  ByteReader(Bytes bytes, std::string_view what) : bytes_(bytes), what_(what) {}

  std::uint64_t position() const { return at_; }
  std::uint64_t left() const { return bytes_.size() - at_; }
  void skip(std::uint64_t count) { take(count); }
  Bytes take(std::uint64_t count) {
    check<DataError>(count <= left(), what_, " is cut off: ", count, " bytes are to follow at byte ", at_, ", ", left(), " do");
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }
  std::string_view text(std::uint64_t count) {
    const auto taken = take(count);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  /// A number of `size` bytes, lowest first.
  std::uint64_t number(std::size_t size) {
    std::uint64_t value = 0;
    unsigned shift = 0;
    for (const auto byte : take(size)) {
      value |= std::uint64_t{std::to_integer<unsigned char>(byte)} << shift;
      shift += 8;
    }
    return value;
  }
  /// Up to the end of a line, which is read too and not given.
  std::string_view line() {
    std::uint64_t length = 0;
    while (length < left() && bytes_[at_ + length] != std::byte{'\n'}) ++length;
    const auto found = text(length);
    skip(1);
    return found;
  }

 private:
  Bytes bytes_;
  std::string_view what_;
  std::uint64_t at_ = 0;
};

}  // namespace rookery
