// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// log_sharded_tensor_content: what a table, or any parameter, looks like: where its shards are, how large its numbers, and rows of it on
// request.
//
// Answers to model.py log_sharded_tensor_content of the-algorithm-ml, which gathers the whole table on one GPU and works for one rank
// only; differs: rows travel in chunks to rank 0 alone, in their own dtype, on any topology.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/human.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/log/logged_matrices.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/reductions.hpp>

namespace rookery {

struct TensorContentOptions {
  std::int64_t row_begin = 0, row_end = 0;       // rows to print, [row_begin, row_end); none unless asked for
  std::FILE* out = stdout;
  std::int64_t rows_per_exchange = 1 << 20;      // row sums, 8 bytes each, that one all-reduce carries for a table split by columns
};

namespace detail {

/// The part of rows [begin, end) that a shard holds.
inline ShardBox overlap(const ShardBox& box, std::int64_t begin, std::int64_t end) {
  const auto from = std::max(box.row_begin, begin);
  return {from, std::max(from, std::min(box.row_end, end)), box.column_begin, box.column_end};
}

/// Rows [begin, end) of a matrix -> [end - begin, columns] on the host of rank 0, undefined elsewhere. Ranks: all.
template <class Topology> at::Tensor gather_rows(Topology& topology, const LoggedMatrix& matrix, std::int64_t begin, std::int64_t end) {
  Counts own(static_cast<std::size_t>(topology.world_size())), none = own, from = own;
  std::vector<at::Tensor> parts{ops::empty({0}, matrix.dtype)};
  for (const auto& [box, rank, values] : matrix.shards) {
    const auto part = overlap(box, begin, end);
    if (part.rows() == 0) continue;
    from[static_cast<std::size_t>(rank)] += part.rows() * part.columns();
    if (values.defined()) parts.push_back(values.narrow(0, part.row_begin - box.row_begin, part.rows()).to(at::kCPU).reshape({-1}));
  }
  own[0] = from[static_cast<std::size_t>(topology.rank())];
  const auto received = all_to_all_v(topology, ops::cat(parts), own, topology.rank() == 0 ? from : none).wait();  // [n]
  if (topology.rank() != 0) return {};
  auto rows = ops::empty({end - begin, matrix.columns}, matrix.dtype);                       // [end - begin, columns]
  std::int64_t at = 0;
  for (int rank = 0; rank < topology.world_size(); ++rank)
    for (const auto& shard : matrix.shards) {
      const auto part = overlap(shard.box, begin, end);
      if (shard.rank != rank || part.rows() == 0) continue;
      const auto size = part.rows() * part.columns();
      rows.narrow(0, part.row_begin - begin, part.rows())
          .narrow(1, part.column_begin, part.columns())
          .copy_(received.narrow(0, at, size).view({part.rows(), part.columns()}));
      at += size;
    }
  return rows;
}

}  // namespace detail

/// Prints on rank 0 the shape, dtype and shards of a parameter, mean, std, largest value, norm and mean row norm of all of it, and the
/// rows asked for.
///
/// Errors:  IndexError for a name that does not exist, with the names there are, and for rows that do not.
/// Cost:    one pass and one all-reduce, as WeightLogger; rows in messages of some 100 KB each, to rank 0.
/// Ranks:   all, with the same arguments.
template <class Model> void log_sharded_tensor_content(Model& model, std::string_view name, TensorContentOptions options = {}) {
  constexpr std::array statistics{&detail::functions_of<Mean>, &detail::functions_of<StandardDeviation>, &detail::functions_of<MaxAbs>,
                                  &detail::functions_of<L2Norm>, &detail::functions_of<MeanRowNorm>};
  auto& topology = model.topology();
  detail::Reductions reductions(detail::logged_matrices(model), options.rows_per_exchange);
  const auto found = detail::find_matrix(reductions.matrices(), name, "log_sharded_tensor_content", false);
  const auto& matrix = reductions.matrices()[found];
  check<IndexError>(0 <= options.row_begin && options.row_begin <= options.row_end && options.row_end <= matrix.rows,
                    "log_sharded_tensor_content: rows ", options.row_begin, " to ", options.row_end, " of '", name, "', which has ",
                    matrix.rows);
  for (const auto* statistic : statistics) reductions.add(found, *statistic);
  reductions.run(topology);

  const bool prints = topology.rank() == 0;
  const auto print = [&](const std::string& text) { std::fwrite(text.data(), 1, text.size(), options.out); };
  if (prints) {
    std::vector<std::vector<std::string>> lines{{"  shard", "rank", "rows", "columns"}};
    for (std::size_t s = 0; matrix.is_table && s < matrix.shards.size(); ++s) {
      const auto& [box, rank, values] = matrix.shards[s];
      lines.push_back({concat("  ", s), concat(rank), concat(box.row_begin, "-", box.row_end - 1),
                       concat(box.column_begin, "-", box.column_end - 1)});
    }
    print(concat(name, ": [", matrix.rows, ", ", matrix.columns, "] ", c10::toString(matrix.dtype), ", ",
                 matrix.is_table ? concat("shards: ", matrix.shards.size()) : "on every rank", "\n"));
    if (matrix.is_table) print(aligned(lines));
    for (std::size_t s = 0; s < statistics.size(); ++s)
      print(concat("  ", statistics[s]->name, " ", human_number(reductions.value(s), 6)));
    print("\n");
  }
  const auto chunk = std::max<std::int64_t>(1, detail::chunk_numbers / std::max<std::int64_t>(1, matrix.columns));
  for (auto begin = options.row_begin; begin < options.row_end; begin += chunk) {
    const auto rows = detail::gather_rows(topology, matrix, begin, std::min(options.row_end, begin + chunk));   // [n, columns]
    if (!prints) continue;
    for_floating(compute_dtype(matrix.dtype), [&](auto zero) {
      const auto wide = rows.to(compute_dtype(matrix.dtype));                                          // [n, columns]
      const auto* values = wide.template const_data_ptr<decltype(zero)>();
      for (std::int64_t r = 0; r < rows.size(0); ++r) {
        std::string line = concat("  row ", begin + r, ":");
        for (std::int64_t c = 0; c < matrix.columns; ++c) line += concat(" ", *values++);
        print(line + "\n");
      }
    });
  }
  if (prints) std::fflush(options.out);
}

}  // namespace rookery
