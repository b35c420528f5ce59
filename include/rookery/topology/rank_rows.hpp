// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rows of ranks: what collectives of processes do with their tensors before a message and after it.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>

namespace rookery::detail {

/// What all ranks brought, combined in their order: [W, ...] -> [...].
inline at::Tensor in_rank_order(const at::Tensor& brought, ReduceOp op) {
  auto total = brought.select(0, 0).clone();
  for (std::int64_t rank = 1; rank < brought.size(0); ++rank) {
    const auto next = brought.select(0, rank);
    if (op == ReduceOp::sum) total.add_(next);
    else total = op == ReduceOp::max ? total.maximum(next) : total.minimum(next);
  }
  return total;
}

/// Without content: [lead..., ...] for rows of `like` [n, ...].
inline at::Tensor empty_rows(const at::Tensor& like, std::vector<std::int64_t> lead) {
  const auto of_row = like.sizes().slice(1);
  lead.insert(lead.end(), of_row.begin(), of_row.end());
  return ops::empty(lead, like.options());
}

inline std::int64_t sum_of(const Counts& counts) { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

/// Errors: ShapeError where `counts` are not those of the rows of `tensor` for so many ranks.
inline void check_counts(std::string_view verb, const at::Tensor& tensor, const Counts& counts, int ranks) {
  check<ShapeError>(std::ssize(counts) == ranks, verb, ": counts for ", counts.size(), " ranks of ", ranks);
  check<ShapeError>(tensor.dim() > 0 && sum_of(counts) == tensor.size(0), verb, ": counts for ", sum_of(counts),
                    " rows, and a tensor of ", tensor.sizes());
}

/// The rows of each rank, of which there are so many, as views.
inline std::vector<at::Tensor> rows_of_ranks(const at::Tensor& rows, const Counts& counts) {
  std::vector<at::Tensor> of_rank;
  std::int64_t begin = 0;
  for (const auto one : counts) {
    of_rank.push_back(rows.narrow(0, begin, one));
    begin += one;
  }
  return of_rank;
}

}  // namespace rookery::detail
