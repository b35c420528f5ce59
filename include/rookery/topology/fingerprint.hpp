// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Fingerprints of collectives: what each rank is about to do, in words, so that ranks that disagree are told instead of hanging.
//
// Threads compares them always; topologies of processes do in the check level `communicating`, over their liveness link.
// Source: most hangs of distributed training are ranks that disagree which collective comes next.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>

namespace rookery::detail {

/// "all_gather_v of Float [*, 3]": a verb and its tensor, whose rows are each rank's own for some verbs.
inline std::string fingerprint(std::string_view verb, const at::Tensor& tensor, bool own_rows) {
  auto said = concat(verb, " of ", c10::toString(tensor.scalar_type()), " [");
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    if (d > 0) said += ", ";
    if (d == 0 && own_rows) said += '*';
    else append(said, tensor.size(d));
  }
  return said += ']';
}
inline std::string fingerprint_of_all_to_all_v(const at::Tensor& send) { return fingerprint("all_to_all_v", send, true); }
inline std::string fingerprint_of_all_gather_v(const at::Tensor& tensor) { return fingerprint("all_gather_v", tensor, true); }
inline std::string fingerprint_of_all_reduce(const at::Tensor& tensor, ReduceOp op) {
  return fingerprint(op == ReduceOp::sum ? "all_reduce sum" : op == ReduceOp::max ? "all_reduce max" : "all_reduce min", tensor, false);
}
inline std::string fingerprint_of_reduce_scatter_v(const at::Tensor& tensor, const Counts& counts) {
  return fingerprint(concat("reduce_scatter_v ", counts), tensor, false);
}
inline std::string fingerprint_of_broadcast(const at::Tensor& tensor, int root) {
  return fingerprint(concat("broadcast from rank ", root), tensor, false);
}

/// A fingerprint with the rows that this rank sends to each, and expects from each.
inline std::string with_counts(std::string said, const Counts& send_counts, const Counts& recv_counts) {
  said += '\n';
  for (const auto* counts : {&send_counts, &recv_counts})
    said.append(reinterpret_cast<const char*>(counts->data()), counts->size() * sizeof(std::int64_t));
  return said;
}

/// Whether two fingerprints are of one verb and dtype: then no rank is a batch ahead of another, but their tensors or arguments differ.
inline bool is_one_verb(std::string_view a, std::string_view b) {
  const auto verb = [](std::string_view said) { return said.substr(0, said.find(' ')); };
  const auto dtype = [](std::string_view said) {
    const auto of = std::min(said.find(" of "), said.size());
    return said.substr(of, said.find(" [", of) - of);
  };
  return verb(a) == verb(b) && dtype(a) == dtype(b);
}

/// The same sentence on every rank when fingerprints, in rank order, do not go together; empty when they do.
inline std::string disagreement(std::int64_t number, const std::vector<std::string>& said) {
  const auto words = [&](std::size_t rank) { return std::string_view(said[rank]).substr(0, said[rank].find('\n')); };
  const auto count = [&](std::size_t rank, std::size_t i) {  // of 2 W
    std::int64_t rows = -1;
    const auto bytes = std::string_view(said[rank]).substr(words(rank).size() + 1);
    if (bytes.size() == 2 * said.size() * sizeof rows) std::memcpy(&rows, bytes.data() + i * sizeof rows, sizeof rows);
    return rows;
  };
  for (std::size_t rank = 1; rank < said.size(); ++rank)
    if (words(rank) != words(0))
      return concat("collective number ", number, " is ", words(0), " on rank 0 but ", words(rank), " on rank ", rank,
                    is_one_verb(words(0), words(rank)) ? "" : same_batches);
  if (said.empty() || words(0).size() == said[0].size()) return {};
  for (std::size_t from = 0; from < said.size(); ++from)
    for (std::size_t to = 0; to < said.size(); ++to)
      if (count(from, to) != count(to, said.size() + from))
        return concat("collective number ", number, " is ", words(0), ": rank ", from, " sends ", count(from, to), " rows to rank ", to,
                      ", which expects ", count(to, said.size() + from));
  return {};
}

}  // namespace rookery::detail
