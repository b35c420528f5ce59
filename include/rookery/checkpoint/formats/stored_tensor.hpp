// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// StoredTensor: a tensor as a file has it, its place in the file checked, before torch sees anything of it.
// Include cost: c10 scalar types only.

#include <c10/core/ScalarType.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/checkpoint/formats/byte_reader.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

/// A dtype by its names in files.
struct StoredDtype {
  std::string_view safetensors, storage;                         // "F32", and "FloatStorage" in pickles of torch
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  std::int64_t size = 0;                                         // of a number, in bytes
};

inline constexpr std::array<StoredDtype, 15> stored_dtypes{{
    {"F64", "DoubleStorage", c10::ScalarType::Double, 8},
    {"F32", "FloatStorage", c10::ScalarType::Float, 4},
    {"F16", "HalfStorage", c10::ScalarType::Half, 2},
    {"BF16", "BFloat16Storage", c10::ScalarType::BFloat16, 2},
    {"F8_E5M2", "", c10::ScalarType::Float8_e5m2, 1},
    {"F8_E4M3", "", c10::ScalarType::Float8_e4m3fn, 1},
    {"I64", "LongStorage", c10::ScalarType::Long, 8},
    {"I32", "IntStorage", c10::ScalarType::Int, 4},
    {"I16", "ShortStorage", c10::ScalarType::Short, 2},
    {"I8", "CharStorage", c10::ScalarType::Char, 1},
    {"U8", "ByteStorage", c10::ScalarType::Byte, 1},
    {"U16", "", c10::ScalarType::UInt16, 2},
    {"U32", "", c10::ScalarType::UInt32, 4},
    {"U64", "", c10::ScalarType::UInt64, 8},
    {"BOOL", "BoolStorage", c10::ScalarType::Bool, 1},
}};

/// A named tensor in a file.
struct StoredTensor {
  std::string name;
  StoredDtype dtype;
  std::vector<std::int64_t> shape, strides;                      // in numbers
  Bytes bytes;                                                   // from its first number on; its numbers lie within
};

/// The count of numbers of a shape. Errors: DataError when it is negative anywhere, too long, or more than memory could hold.
inline std::int64_t checked_count(std::string_view name, const std::vector<std::int64_t>& shape) {
  check<DataError>(shape.size() <= 64, "'", name, "' has ", shape.size(), " dimensions");
  std::int64_t count = 1;
  bool empty = false, fits = true;
  for (const auto size : shape) {
    check<DataError>(size >= 0, "'", name, "' has shape ", shape);
    empty = empty || size == 0;
    fits = fits && !__builtin_mul_overflow(count, size > 0 ? size : 1, &count);
  }
  check<DataError>(fits && count <= std::numeric_limits<std::int64_t>::max() / 16, "'", name, "' of shape ", shape, " is too large");
  return empty ? 0 : count;
}

/// The strides of a dense tensor.
inline std::vector<std::int64_t> dense_strides(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (auto i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * (shape[i] > 0 ? shape[i] : 1);
  return strides;
}

}  // namespace rookery
