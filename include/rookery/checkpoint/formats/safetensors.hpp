// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// parse_safetensors: the tensors of a safetensors file: a length, a JSON header, raw numbers.
//
// As strict as the format's own reader: no name twice, no dtype or size that does not fit, no hole and no overlap in the numbers.
// Source: github.com/huggingface/safetensors, "Format".  Include cost: nlohmann/json.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <rookery/checkpoint/formats/byte_reader.hpp>
#include <rookery/checkpoint/formats/stored_tensor.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// The header as JSON. Errors: DataError when it is none, nests too deeply, or has a name twice.
inline nlohmann::json safetensors_header(std::string_view text) {
  std::vector<std::set<std::string>> names;                      // of the objects that are open
  const auto strict = [&](int depth, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    check<DataError>(depth <= 4, "the safetensors header nests deeper than the format does");
    if (event == Event::object_start) names.emplace_back();
    if (event == Event::object_end) names.pop_back();
    if (event == Event::key) {
      const auto& name = value.get_ref<const std::string&>();
      check<DataError>(names.back().insert(name).second, "the safetensors header has '", name, "' twice");
    }
    return true;
  };
  try {
    auto header = nlohmann::json::parse(text, strict);
    check<DataError>(header.is_object(), "the safetensors header is no JSON object");
    return header;
  } catch (const nlohmann::json::exception& problem) {
    fail<DataError>("the safetensors header is no JSON: ", problem.what());
  }
}

inline std::vector<std::int64_t> safetensors_numbers(std::string_view name, const nlohmann::json& entry, const char* key) {
  const auto found = entry.find(key);
  check<DataError>(found != entry.end() && found->is_array(), "'", name, "' has no list '", key, "' in the safetensors header");
  std::vector<std::int64_t> numbers;
  for (const auto& one : *found) {
    check<DataError>(one.is_number_unsigned() && one.get<std::uint64_t>() < std::uint64_t{1} << 62U, "'", name, "' has '", key,
                     "' of what are no sizes in the safetensors header");
    numbers.push_back(one.get<std::int64_t>());
  }
  return numbers;
}

}  // namespace detail

/// The tensors of the file, in the order of their bytes. Errors: DataError for bytes that are no such file.
inline std::vector<StoredTensor> parse_safetensors(Bytes file) {
  constexpr std::uint64_t most_header = 100'000'000;             // the limit of the format's own reader
  ByteReader reader(file, "the safetensors file");
  const auto length = reader.number(8);
  check<DataError>(length <= most_header, "the safetensors header would have ", length, " bytes; the format allows ", most_header);
  const auto header = detail::safetensors_header(reader.text(length));
  const auto numbers = file.subspan(reader.position());

  std::vector<std::pair<std::int64_t, StoredTensor>> found;      // by first byte
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto dtype_name = entry.is_object() ? entry.value("dtype", nlohmann::json()) : nlohmann::json();
    const auto dtype = std::ranges::find_if(stored_dtypes, [&](const auto& one) { return dtype_name == one.safetensors; });
    check<DataError>(dtype != stored_dtypes.end(), "'", name, "' has dtype ", dtype_name.dump(), " in the safetensors header");
    auto shape = detail::safetensors_numbers(name, entry, "shape");
    const auto range = detail::safetensors_numbers(name, entry, "data_offsets");
    check<DataError>(range.size() == 2 && range[0] <= range[1] && static_cast<std::uint64_t>(range[1]) <= numbers.size(), "'", name,
                     "' would be bytes ", range, " of the ", numbers.size(), " behind the safetensors header");
    const auto bytes = checked_count(name, shape) * dtype->size;
    check<DataError>(bytes == range[1] - range[0], "'", name, "' of shape ", shape, " takes ", bytes, " bytes as ", dtype->safetensors,
                     "; the safetensors header gives it ", range[1] - range[0]);
    auto strides = dense_strides(shape);
    found.emplace_back(range[0], StoredTensor{name, *dtype, std::move(shape), std::move(strides),
                                              numbers.subspan(static_cast<std::size_t>(range[0]), static_cast<std::size_t>(bytes))});
  }

  std::ranges::sort(found, {}, [](const auto& one) { return std::pair(one.first, one.second.bytes.size()); });
  std::vector<StoredTensor> tensors;
  std::uint64_t next = 0;
  for (auto& [begin, tensor] : found) {
    check<DataError>(static_cast<std::uint64_t>(begin) == next, "'", tensor.name, "' begins at byte ", begin,
                     " behind the safetensors header, and what is before it ends at ", next);
    next += tensor.bytes.size();
    tensors.push_back(std::move(tensor));
  }
  check<DataError>(next == numbers.size(), "the safetensors file has ", numbers.size(), " bytes of numbers; its header names ", next);
  return tensors;
}

}  // namespace rookery
