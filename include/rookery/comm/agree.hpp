// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// agree: checks that all ranks were told the same, before what differs makes them wait for one another or drift apart.
//
// Source: torchrec leaves it to the user; DDP compares the shapes of parameters.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

namespace detail {

/// Bytes as a tensor [n].
inline at::Tensor to_bytes(std::string_view text) {
  auto bytes = ops::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<std::uint8_t>());
  return bytes;
}

/// 64 bits for a text, as a tensor [1].
inline at::Tensor hash_tensor(std::string_view text) {
  auto hash = ops::empty({1}, at::kLong);
  *hash.mutable_data_ptr<std::int64_t>() = static_cast<std::int64_t>(mix64(hash_bytes(text)));
  return hash;
}
/// Whether every rank gave the same number.
inline bool all_same(const std::vector<at::Tensor>& gathered) {
  for (const auto& one : gathered)
    if (*one.const_data_ptr<std::int64_t>() != *gathered.front().const_data_ptr<std::int64_t>()) return false;
  return true;
}

/// Takes the text before the next separator, or all of it.
inline std::string_view take_part(std::string_view& text, std::string_view separator) {
  const auto part = text.substr(0, text.find(separator));
  text.remove_prefix(std::min(text.size(), part.size() + separator.size()));
  return part;
}

/// What tells a line "subject: clause; clause" from another: the subject and the first clause that is not the same.
inline std::string differing_clause(std::string_view line, std::string_view other) {
  const auto colon = line.find(": ");
  if (colon == std::string_view::npos || colon > line.find("; ")) return std::string(line);
  const auto subject = line.substr(0, colon);
  auto clause = take_part(line, "; ");
  if (clause != take_part(other, "; ")) return std::string(clause);
  do clause = take_part(line, "; ");
  while (clause == take_part(other, "; ") && !(line.empty() && other.empty()));
  return concat(subject, ": ", clause);
}

/// The error for the first rank and line that differ from rank 0's, if there is one.
inline void refuse_differences(std::string_view who, const std::vector<at::Tensor>& gathered) {
  const auto text_of = [&](std::size_t rank) {
    const auto& bytes = gathered[rank];
    return std::string_view(reinterpret_cast<const char*>(bytes.const_data_ptr<std::uint8_t>()), static_cast<std::size_t>(bytes.numel()));
  };
  for (std::size_t rank = 1; rank < gathered.size(); ++rank) {
    auto first = text_of(0), other = text_of(rank);
    while (!first.empty() || !other.empty()) {
      const auto wanted = take_part(first, "\n"), found = take_part(other, "\n");
      if (wanted != found)
        fail<ConfigError>(who, ": ranks differ: rank 0 has '", differing_clause(wanted, found), "' and rank ", rank, " has '",
                          differing_clause(found, wanted), "'");
    }
  }
}

}  // namespace detail

/// Checks that every rank gives the same lines of text as rank 0.
///
/// Errors:  ConfigError on every rank, with the first line that differs; it begins with `who`. Of a line "subject: clause; clause" it has
///          the subject and the first clause that differs.
/// Cost:    one all-gather of 8 bytes, a hash of the text; of the text where hashes differ; nothing where the topology is not distributed.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> void agree(Topology& topology, std::string_view who, std::string_view lines) {
  if constexpr (Topology::is_distributed) {
    if (detail::all_same(all_gather_v(topology, detail::hash_tensor(lines)).wait())) return;
    detail::refuse_differences(who, all_gather_v(topology, detail::to_bytes(lines)).wait());
  }
}

}  // namespace rookery
