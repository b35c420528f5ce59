// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Reductions: reducers at work on the shards of a model.
//
// A parameter is cut into pieces that can be reduced apart: its shards, or, for a rowwise reducer, bands of rows that the same shards
// cover. A piece that lies on one rank is reduced there. Where the columns of a band lie on several ranks, their row sums of squares
// are added over ranks first, and then every rank reduces them. Partials and row sums travel in one all-reduce; only when there are
// more split rows than `rows_per_exchange` do further ones follow, so that memory stays bounded.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/concepts/reducer.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/log/logged_matrices.hpp>

namespace rookery::detail {

/// Numbers that a thread widens to float64 at a time. Below 32768 ATen sums in one order whatever the number of threads.
inline constexpr std::int64_t chunk_numbers = 32767;
/// Partials that wait to be merged.
inline constexpr std::int64_t chunk_partials = 256;

/// A part of a matrix with a partial of its own.
struct LoggedPiece {
  std::vector<std::size_t> shards;               // of the matrix
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t count = 0;                        // elements or rows
  int rank = 0;                                  // where it lies; `split` for columns on several ranks
  std::int64_t offset = 0;                       // in the packed partials

  static constexpr int split = -1;
  std::int64_t rows() const { return row_end - row_begin; }
};

/// The pieces of a matrix for an elementwise reducer: its shards.
inline std::vector<LoggedPiece> shard_pieces(const LoggedMatrix& matrix) {
  std::vector<LoggedPiece> pieces;
  for (std::size_t s = 0; s < matrix.shards.size(); ++s) {
    const auto& [box, rank, values] = matrix.shards[s];
    pieces.push_back({{s}, box.row_begin, box.row_end, box.rows() * box.columns(), rank});
  }
  return pieces;
}

/// The pieces of a matrix for a rowwise reducer: bands of whole rows, cut where a shard begins or ends.
inline std::vector<LoggedPiece> band_pieces(const LoggedMatrix& matrix) {
  std::vector<std::int64_t> cuts;
  for (const auto& shard : matrix.shards) cuts.insert(cuts.end(), {shard.box.row_begin, shard.box.row_end});
  std::ranges::sort(cuts);
  cuts.erase(std::ranges::unique(cuts).begin(), cuts.end());
  std::vector<LoggedPiece> pieces;
  for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
    LoggedPiece band{{}, cuts[c], cuts[c + 1], cuts[c + 1] - cuts[c], LoggedPiece::split};
    bool together = true;
    for (std::size_t s = 0; s < matrix.shards.size(); ++s) {
      const auto& shard = matrix.shards[s];
      if (shard.box.row_begin > band.row_begin || shard.box.row_end < band.row_end) continue;
      together = together && shard.rank == matrix.shards[band.shards.empty() ? s : band.shards.front()].rank;
      band.shards.push_back(s);
    }
    if (together) band.rank = matrix.shards[band.shards.front()].rank;
    pieces.push_back(std::move(band));
  }
  return pieces;
}

/// Part of a matrix as float64, in `scratch` [chunk_numbers]. One buffer for all chunks of a thread: a new one for each would make malloc
/// give memory back and take it again.
inline at::Tensor widen(const at::Tensor& part, const at::Tensor& scratch) {
  return scratch.narrow(0, 0, part.numel()).view(part.sizes()).copy_(part);
}

/// Merged partial of `count` > 0 chunks, which `chunk(i, scratch)` gives as float64 -> [partial_size].
template <class R, class Chunk> at::Tensor reduce_chunks(std::int64_t count, Chunk&& chunk) {
  at::Tensor merged;                                                                         // [partial_size]
  for (std::int64_t first = 0; first < count; first += chunk_partials) {
    const auto n = std::min(chunk_partials, count - first);
    std::vector<at::Tensor> partials(static_cast<std::size_t>(n));
    parallel(n, 4, [&](std::int64_t begin, std::int64_t end) {
      const auto scratch = at::empty({chunk_numbers}, at::kDouble);                          // [chunk_numbers]
      for (auto i = begin; i < end; ++i) {
        auto partial = R{}.partial(chunk(first + i, scratch));                               // [partial_size]
        check<ShapeError>(partial.dim() == 1 && partial.numel() == R::partial_size && partial.scalar_type() == at::kDouble, "reducer '",
                          R::name, "': a partial is ", c10::toString(partial.scalar_type()), " ", partial.sizes(), "; it must be Double [",
                          R::partial_size, "]");
        partials[static_cast<std::size_t>(i)] = std::move(partial);
      }
    });
    if (merged.defined()) partials.push_back(merged);
    merged = R{}.merge(at::stack(partials));                                                 // [partial_size]
  }
  return merged;
}

/// Sums of squares of rows [row, row + count) over those shards of a piece that are here -> [count]; undefined when none is.
inline at::Tensor row_squares(const LoggedMatrix& matrix, const LoggedPiece& piece, std::int64_t row, std::int64_t count,
                              const at::Tensor& scratch) {
  at::Tensor squares;
  for (const auto s : piece.shards) {
    const auto& [box, rank, values] = matrix.shards[s];
    if (!values.defined()) continue;
    const auto rows = values.narrow(0, row - box.row_begin, count);                          // [count, columns]
    for (std::int64_t c = 0; c < box.columns(); c += chunk_numbers) {
      const auto part = rows.narrow(1, c, std::min(chunk_numbers, box.columns() - c));       // [count, columns]
      const auto sums = widen(part, scratch).square_().sum(1);                               // [count]
      squares = squares.defined() ? squares.add_(sums) : sums;
    }
  }
  return squares;
}

/// Rows that a chunk of a piece holds.
inline std::int64_t chunk_rows(const LoggedMatrix& matrix, const LoggedPiece& piece) {
  std::int64_t widest = 1;
  for (const auto s : piece.shards) widest = std::max(widest, matrix.shards[s].box.columns());
  return std::max<std::int64_t>(1, chunk_numbers / widest);
}

inline std::int64_t chunks_of(std::int64_t size, std::int64_t chunk) { return (size + chunk - 1) / chunk; }

/// Partial of a piece that lies on this rank -> [partial_size].
template <class R> at::Tensor reduce_piece(const LoggedMatrix& matrix, const LoggedPiece& piece) {
  const auto rows = chunk_rows(matrix, piece);
  const auto rows_at = [&](std::int64_t i) { return std::min(rows, piece.rows() - i * rows); };
  if constexpr (R::input == ReducerInput::row_squares) {
    return reduce_chunks<R>(chunks_of(piece.rows(), rows),
                            [&](std::int64_t i, const at::Tensor& scratch) {
                              return row_squares(matrix, piece, piece.row_begin + i * rows, rows_at(i), scratch);
                            });
  } else {
    const auto& values = matrix.shards[piece.shards.front()].values;                         // [rows, columns]
    const auto columns = std::min(chunk_numbers, values.size(1)), across = chunks_of(values.size(1), columns);
    return reduce_chunks<R>(chunks_of(piece.rows(), rows) * across, [&](std::int64_t i, const at::Tensor& scratch) {
      const auto c = i % across * columns;
      return widen(values.narrow(0, i / across * rows, rows_at(i / across)).narrow(1, c, std::min(columns, values.size(1) - c)), scratch);
    });
  }
}

/// Reducers of `Rules` (a LogRules) on chosen matrices. Made once; `run` as often as there is something to log.
template <class Rules> class Reductions {
 public:
  /// One all-reduce carries the row sums, 8 bytes each, of up to `rows_per_exchange` rows of tables split by columns.
  Reductions(std::vector<LoggedMatrix> matrices, std::int64_t rows_per_exchange)
      : matrices_(std::move(matrices)), rows_per_exchange_(rows_per_exchange) {
    check<ConfigError>(rows_per_exchange > 0, "rows_per_exchange is ", rows_per_exchange, "; it must be positive");
  }

  const std::vector<LoggedMatrix>& matrices() const { return matrices_; }

  /// Adds a matrix under the reducer of a rule.
  void add(std::size_t matrix, std::size_t rule) {
    Rules::visit(rule, [&]<class R>() {
      auto pieces = R::input == ReducerInput::elements ? shard_pieces(matrices_[matrix]) : band_pieces(matrices_[matrix]);
      for (auto& piece : pieces) {
        piece.offset = size_;
        size_ += R::partial_size;
        if (piece.rank == LoggedPiece::split) split_rows_ += piece.rows();
      }
      entries_.push_back({matrix, rule, std::move(pieces)});
    });
  }

  /// Reduces everything.
  /// Cost:    one pass over the local shards in chunks; one all-reduce of the partials and of up to `rows_per_exchange` row sums, one
  ///          more for each further `rows_per_exchange` rows of column-split tables; one transfer to the host.
  /// Ranks:   all, in the same order.
  template <class Topology> void run(Topology& topology);

  /// The number of entry `index` over the pieces that `counts(matrix, piece)` accepts, the same on every rank; NaN for no pieces.
  template <class Accept> double value(std::size_t index, Accept&& counts) const;
  double value(std::size_t index) const {
    return value(index, [](const LoggedMatrix&, const LoggedPiece&) { return true; });
  }

 private:
  struct Entry {
    std::size_t matrix = 0, rule = 0;
    std::vector<LoggedPiece> pieces;
  };

  /// Calls `fn(entry, piece, row, count, offset)` for the rows of split pieces that rows [begin, end) of all of them, in a line, hold.
  template <class Fn> void for_split_rows(std::int64_t begin, std::int64_t end, Fn&& fn) const {
    std::int64_t before = 0;
    for (const auto& entry : entries_)
      for (const auto& piece : entry.pieces) {
        if (piece.rank != LoggedPiece::split) continue;
        const auto from = std::max(begin, before), to = std::min(end, before + piece.rows());
        if (from < to) fn(entry, piece, piece.row_begin + from - before, to - from, from - begin);
        before += piece.rows();
      }
  }

  std::vector<LoggedMatrix> matrices_;
  std::vector<Entry> entries_;
  std::int64_t rows_per_exchange_ = 0, size_ = 0, split_rows_ = 0;
  at::Tensor partials_;                          // [size_] on the host
};

template <class Rules> template <class Topology> void Reductions<Rules>::run(Topology& topology) {
  if (size_ == 0) return;
  const auto options = at::TensorOptions().dtype(at::kDouble).device(topology.device());
  auto partials = at::zeros({size_}, options);                                               // [size_]
  for (const auto& entry : entries_)
    Rules::visit(entry.rule, [&]<class R>() {
      for (const auto& piece : entry.pieces)
        if (piece.rank == topology.rank())
          partials.narrow(0, piece.offset, R::partial_size).copy_(reduce_piece<R>(matrices_[entry.matrix], piece));
    });
  for (std::int64_t begin = 0; begin == 0 || begin < split_rows_; begin += rows_per_exchange_) {
    const auto end = std::min(split_rows_, begin + rows_per_exchange_);
    auto squares = at::zeros({end - begin}, options);                                        // [end - begin]
    for_split_rows(begin, end, [&](const Entry& entry, const LoggedPiece& piece, auto row, auto count, auto offset) {
      const auto& matrix = matrices_[entry.matrix];
      const auto chunk = chunk_rows(matrix, piece);
      parallel(chunks_of(count, chunk), 4, [&](std::int64_t first, std::int64_t last) {
        const auto scratch = at::empty({chunk_numbers}, at::kDouble);                        // [chunk_numbers]
        for (auto i = first * chunk; i < std::min(count, last * chunk); i += chunk) {
          const auto n = std::min(chunk, count - i);
          const auto own = row_squares(matrix, piece, row + i, n, scratch);                  // [n]
          if (own.defined()) squares.narrow(0, offset + i, n).copy_(own);
        }
      });
    });
    if (begin == 0) squares = at::cat({squares, partials});                                  // the partials ride along once
    squares = all_reduce(topology, std::move(squares)).wait();
    if (begin == 0) partials = squares.narrow(0, end, size_).clone();                        // [size_]
    for_split_rows(begin, end, [&](const Entry& entry, const LoggedPiece& piece, auto row, auto count, auto offset) {
      Rules::visit(entry.rule, [&]<class R>() {
        const auto totals = squares.narrow(0, offset, count);                                    // [count]
        auto merged = reduce_chunks<R>(chunks_of(count, chunk_numbers), [&](std::int64_t i, const at::Tensor&) {
          return totals.narrow(0, i * chunk_numbers, std::min(chunk_numbers, count - i * chunk_numbers));
        });
        auto slot = partials.narrow(0, piece.offset, R::partial_size);                       // [partial_size]
        if (row > piece.row_begin) merged = R{}.merge(at::stack({slot, merged}));
        slot.copy_(merged);
      });
    });
  }
  partials_ = partials.cpu();
}

template <class Rules> template <class Accept> double Reductions<Rules>::value(std::size_t index, Accept&& counts) const {
  const auto& entry = entries_[index];
  double value = std::numeric_limits<double>::quiet_NaN();
  Rules::visit(entry.rule, [&]<class R>() {
    std::vector<at::Tensor> accepted;
    std::int64_t count = 0;
    for (const auto& piece : entry.pieces) {
      if (!counts(matrices_[entry.matrix], piece)) continue;
      accepted.push_back(partials_.narrow(0, piece.offset, R::partial_size));                // [partial_size]
      count += piece.count;
    }
    if (accepted.empty()) return;
    const auto merged = R{}.merge(at::stack(accepted)).contiguous();                         // [partial_size]
    value = R{}.finish(std::span(merged.template const_data_ptr<double>(), static_cast<std::size_t>(R::partial_size)), count);
  });
  return value;
}

}  // namespace rookery::detail
