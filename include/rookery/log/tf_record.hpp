// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The bytes of TensorBoard's files: TFRecord frames around protobuf messages, written by hand because protobuf linked beside LibTorch
// aborts on what both register.
//
// Source: tensorflow/core/lib/io/record_writer.cc; protobuf.dev "Encoding".  Include cost: none.

#include <bit>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include <rookery/core/crc32c.hpp>

namespace rookery {

namespace detail {

/// The bytes of a number, lowest first, on any machine.
template <class Number> void append_little_endian(std::string& out, Number number) {
  for (unsigned byte = 0; byte < sizeof number; ++byte) out += static_cast<char>(number >> (8U * byte) & 0xFFU);
}

}  // namespace detail

/// One record of a TFRecord file: length, its checksum, the data, its checksum.
inline std::string tf_record(std::string_view data) {
  std::string out;
  detail::append_little_endian<std::uint64_t>(out, data.size());
  detail::append_little_endian<std::uint32_t>(out, masked_crc32c(out));
  out += data;
  detail::append_little_endian<std::uint32_t>(out, masked_crc32c(data));
  return out;
}

/// A protobuf message that is put together field by field, in any order; `field` is the number in the .proto file.
class ProtobufMessage {
 public:
  ProtobufMessage& integer(unsigned field, std::int64_t value) { return tag(field, 0).varint(static_cast<std::uint64_t>(value)); }
  ProtobufMessage& number(unsigned field, double value) {
    detail::append_little_endian(tag(field, 1).bytes_, std::bit_cast<std::uint64_t>(value));
    return *this;
  }
  ProtobufMessage& number(unsigned field, float value) {
    detail::append_little_endian(tag(field, 5).bytes_, std::bit_cast<std::uint32_t>(value));
    return *this;
  }
  /// A string, bytes, or a message inside this one.
  ProtobufMessage& text(unsigned field, std::string_view value) {
    tag(field, 2).varint(value.size());
    bytes_ += value;
    return *this;
  }
  ProtobufMessage& message(unsigned field, const ProtobufMessage& value) { return text(field, value.bytes_); }
  /// A packed list of doubles.
  template <class Range> ProtobufMessage& numbers(unsigned field, const Range& values) {
    std::string packed;
    for (const double value : values) detail::append_little_endian(packed, std::bit_cast<std::uint64_t>(value));
    return text(field, packed);
  }

  const std::string& bytes() const { return bytes_; }

 private:
  ProtobufMessage& tag(unsigned field, unsigned wire_type) { return varint(field << 3U | wire_type); }
  ProtobufMessage& varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7U) bytes_ += static_cast<char>((value & 0x7FU) | 0x80U);
    bytes_ += static_cast<char>(value);
    return *this;
  }

  std::string bytes_;
};

}  // namespace rookery
