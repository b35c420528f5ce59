// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// to_string of JaggedTensor, KeyedJaggedTensor and KeyedTensor: text to look at, as TorchRec's print(kjt), and of bounded length.
//
//   KeyedJaggedTensor({
//     "user": [[7, 9], [], [3]],
//     "item": [[1], [2, 5], [8]]
//   })
//
// Of many keys, rows, ids or columns the first few are written, and how many follow. Only those are read: what is on a device is waited
// for. Answers to __str__ of torchrec/sparse/jagged_tensor.py.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/sparse/jagged_tensor.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>
#include <rookery/sparse/keyed_tensor.hpp>

namespace rookery {

/// How much of each is written before it is only counted.
struct TextOptions {
  std::int64_t keys = 16;
  std::int64_t rows = 8;             // of a key
  std::int64_t entries = 8;          // of a row: ids, or columns
};

namespace detail {

/// The first `most` of `count` things in brackets, and how many there are besides.
template <class Fn> std::string first_of(std::int64_t count, std::int64_t most, Fn&& text_of) {
  std::string text = "[";
  const auto shown = std::min(count, std::max<std::int64_t>(most, 0));
  for (std::int64_t i = 0; i < shown; ++i) text += concat(i > 0 ? ", " : "", text_of(i));
  if (shown < count) text += concat(shown > 0 ? ", " : "", "... ", count - shown, " more");
  return text + "]";
}

/// One number, in the fewest digits that its dtype needs; or a nested list of them.
inline std::string text_of(const at::Tensor& entry, const TextOptions& options) {
  if (entry.dim() > 0)
    return first_of(entry.size(0), options.entries, [&](std::int64_t i) { return text_of(entry.select(0, i), options); });
  if (!entry.is_floating_point()) return concat(entry.item<std::int64_t>());
  return entry.scalar_type() == at::kDouble ? concat(entry.item<double>()) : concat(entry.item<float>());
}

/// Rows of a jagged tensor that begin at `offsets`; the entries of each are written.
inline std::string text_of_rows(const at::Tensor& entries, const at::Tensor& offsets, const TextOptions& options) {
  const auto* offset = offsets.const_data_ptr<std::int64_t>();
  return first_of(offsets.numel() - 1, options.rows, [&](std::int64_t b) {
    const auto count = offset[b + 1] - offset[b], shown = std::clamp<std::int64_t>(options.entries, 0, count);
    const auto row = entries.detach().narrow(0, offset[b], shown).to(at::kCPU);              // [shown, D...]
    return first_of(count, options.entries, [&](std::int64_t i) { return text_of(row.select(0, i), options); });
  });
}
inline std::string text_of(const JaggedTensor& feature, const TextOptions& options) {
  const auto offsets = feature.offsets();                                                    // [B + 1]
  auto values = text_of_rows(feature.values(), offsets, options);
  if (!feature.is_weighted()) return values;
  return concat("{values: ", values, ", weights: ", text_of_rows(feature.weights(), offsets, options), "}");
}

/// Keys, each with what `text_of(position)` says of it, a line each.
template <class Fn>
std::string text_of_keys(std::string_view name, const std::vector<std::string>& keys, const TextOptions& options, Fn&& text_of_key) {
  if (keys.empty()) return concat(name, "({})");
  auto text = concat(name, "({\n");
  const auto count = static_cast<std::int64_t>(keys.size()), shown = std::clamp<std::int64_t>(options.keys, 0, count);
  for (std::int64_t i = 0; i < shown; ++i) {
    const auto f = static_cast<std::size_t>(i);
    text += concat("  \"", keys[f], "\": ", text_of_key(f), i + 1 < count ? ",\n" : "\n");
  }
  if (shown < count) text += concat("  ... ", count - shown, " more keys\n");
  return text + "})";
}

}  // namespace detail

/// JaggedTensor([[1, 2], [], [3]]); with weights JaggedTensor({values: [[1, 2], []], weights: [[.5, 1], []]}).
inline std::string to_string(const JaggedTensor& feature, const TextOptions& options = {}) {
  return concat("JaggedTensor(", detail::text_of(feature, options), ")");
}
/// A line for each key, with its rows.
inline std::string to_string(const KeyedJaggedTensor& batch, const TextOptions& options = {}) {
  return detail::text_of_keys("KeyedJaggedTensor", batch.keys(), options,
                              [&](std::size_t f) { return detail::text_of(batch.feature(f), options); });
}
/// A line for each key, with its columns, row by row.
inline std::string to_string(const KeyedTensor& pooled, const TextOptions& options = {}) {
  return detail::text_of_keys("KeyedTensor", pooled.keys(), options, [&](std::size_t f) {
    const auto columns = pooled[pooled.keys()[f]].detach();                                  // [B, D]
    const auto rows = std::clamp<std::int64_t>(options.rows, 0, columns.size(0));
    const auto here = columns.narrow(0, 0, rows).narrow(1, 0, std::clamp<std::int64_t>(options.entries, 0, columns.size(1))).to(at::kCPU);
    return detail::first_of(columns.size(0), options.rows, [&](std::int64_t b) {
      return detail::first_of(columns.size(1), options.entries, [&](std::int64_t i) { return detail::text_of(here[b][i], options); });
    });
  });
}

}  // namespace rookery
