// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Several packed states in one, as a suite or a wrapper of metrics sends them: how many, their lengths, then they.
//
// Answers to nothing upstream, where each state of each metric is a collective of its own.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery::detail {

/// Each state [n] float64.
inline at::Tensor pack_states(std::vector<at::Tensor> states) {
  auto head = ops::empty({static_cast<std::int64_t>(states.size()) + 1}, at::kDouble);  // [1 + states]
  auto* to = head.mutable_data_ptr<double>();
  *to++ = static_cast<double>(states.size());
  for (const auto& state : states) *to++ = static_cast<double>(state.numel());
  states.insert(states.begin(), head);
  return ops::cat(states);                                                         // [1 + states + sum of lengths]
}

/// The states again. Errors: ShapeError, in the name of `owner`, for what was not packed so.
inline std::vector<at::Tensor> unpack_states(const at::Tensor& packed, std::string_view owner) {
  const auto host = host_column(packed, concat(owner, ": a packed state"));             // [1 + states + sum of lengths]
  const auto from = numbers(host);
  const auto length_at = [&](std::int64_t i, double most) {
    const double length = i < host.numel() ? from[static_cast<std::size_t>(i)] : -1;
    check<ShapeError>(length >= 0 && length <= most && length == std::floor(length), owner, ": a packed state of ", host.numel(),
                      " numbers has ", length, " in place ", i, ", where a length of at most ", most, " stands");
    return static_cast<std::int64_t>(length);
  };
  const auto count = length_at(0, static_cast<double>(std::max<std::int64_t>(host.numel() - 1, 0)));
  std::vector<at::Tensor> states;
  std::int64_t begin = 1 + count;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto length = length_at(1 + i, static_cast<double>(host.numel() - begin));
    states.push_back(host.narrow(0, begin, length));                               // [length]
    begin += length;
  }
  check<ShapeError>(begin == host.numel(), owner, ": a packed state has ", host.numel(), " numbers; its parts are ", begin);
  return states;
}

/// The same, of a known number. Errors: ShapeError for another.
inline std::vector<at::Tensor> unpack_states(const at::Tensor& packed, std::size_t count, std::string_view owner) {
  auto states = unpack_states(packed, owner);
  check<ShapeError>(states.size() == count, owner, ": a packed state has ", states.size(), " parts; there are ", count);
  return states;
}

}  // namespace rookery::detail
