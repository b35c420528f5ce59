// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Reductions: reducers at work on the shards of a model.
//
// A parameter is cut into pieces that can be reduced apart: its shards, or, for a rowwise reducer, bands of rows that the same shards
// cover. A piece that lies on one rank is reduced there. Where the columns of a band lie on several ranks, their row sums of squares
// are added over ranks first, and then every rank reduces them. Partials and row sums travel in one all-reduce; only when there are
// more split rows than `rows_per_exchange` do further ones follow, so that memory stays bounded.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/log/logged_matrices.hpp>
#include <rookery/log/per_parameter.hpp>

namespace rookery::detail {

/// Numbers that a thread widens to float64 at a time. Below 32768 ATen sums in one order whatever the number of threads.
inline constexpr std::int64_t chunk_numbers = 32767;
/// The same where the numbers are on a device, which is given a few kernels for each chunk.
inline std::int64_t chunk_numbers_on(c10::Device device) {
  return device.type() == c10::DeviceType::CPU ? chunk_numbers : std::int64_t{1} << 24;
}
/// Calls `fn(begin, end, scratch)` for parts of [0, count): by threads on the host, at once on a device.
template <class Fn> void for_chunks_on(c10::Device device, std::int64_t count, Fn&& fn) {
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    fn(begin, end, ops::empty({chunk_numbers_on(device)}, at::TensorOptions(at::kDouble).device(device)));
  };
  if (device.type() == c10::DeviceType::CPU) parallel(count, 4, run);
  else if (count > 0) run(0, count);
}
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
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
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

/// Part of a matrix as float64, in `scratch` [chunk]. One buffer for all chunks of a thread: a new one for each would make malloc
/// give memory back and take it again.
inline at::Tensor widen(const at::Tensor& part, const at::Tensor& scratch) {
  return scratch.narrow(0, 0, part.numel()).view(part.sizes()).copy_(part);
}

/// Merged partial of `count` > 0 chunks, which `chunk(i, scratch)` gives as float64 -> [partial_size].
template <class Chunk>
at::Tensor reduce_chunks(const ReducerFunctions& reducer, c10::Device device, std::int64_t count, Chunk&& chunk) {
  at::Tensor merged;                                                                         // [partial_size]
  for (std::int64_t first = 0; first < count; first += chunk_partials) {
    const auto n = std::min(chunk_partials, count - first);
    std::vector<at::Tensor> partials(static_cast<std::size_t>(n));
    for_chunks_on(device, n, [&](std::int64_t begin, std::int64_t end, const at::Tensor& scratch) {
      for (auto i = begin; i < end; ++i) {
        auto partial = reducer.partial(chunk(first + i, scratch));                           // [partial_size]
        check<ShapeError>(partial.dim() == 1 && partial.numel() == reducer.partial_size && partial.scalar_type() == at::kDouble,
                          "reducer '", reducer.name, "': a partial is ", c10::toString(partial.scalar_type()), " ", partial.sizes(),
                          "; it must be Double [", reducer.partial_size, "]");
        partials[static_cast<std::size_t>(i)] = std::move(partial);
      }
    });
    if (merged.defined()) partials.push_back(merged);
    merged = reducer.merge(ops::stack(partials));                                            // [partial_size]
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
    for (std::int64_t c = 0; c < box.columns(); c += scratch.numel()) {
      const auto part = rows.narrow(1, c, std::min(scratch.numel(), box.columns() - c));     // [count, columns]
      const auto sums = widen(part, scratch).square_().sum(1);                               // [count]
      squares = squares.defined() ? squares.add_(sums) : sums;
    }
  }
  return squares;
}

/// Rows that a chunk of a piece holds.
inline std::int64_t chunk_rows(const LoggedMatrix& matrix, const LoggedPiece& piece, std::int64_t numbers) {
  std::int64_t widest = 1;
  for (const auto s : piece.shards) widest = std::max(widest, matrix.shards[s].box.columns());
  return std::max<std::int64_t>(1, numbers / widest);
}

inline std::int64_t chunks_of(std::int64_t size, std::int64_t chunk) { return (size + chunk - 1) / chunk; }

/// Partial of a piece that lies on this rank -> [partial_size].
inline at::Tensor reduce_piece(const ReducerFunctions& reducer, const LoggedMatrix& matrix, const LoggedPiece& piece, c10::Device device) {
  const auto numbers = chunk_numbers_on(device), rows = chunk_rows(matrix, piece, numbers);
  const auto rows_at = [&](std::int64_t i) { return std::min(rows, piece.rows() - i * rows); };
  if (reducer.input == ReducerInput::row_squares)
    return reduce_chunks(reducer, device, chunks_of(piece.rows(), rows), [&](std::int64_t i, const at::Tensor& scratch) {
      return row_squares(matrix, piece, piece.row_begin + i * rows, rows_at(i), scratch);
    });
  const auto& values = matrix.shards[piece.shards.front()].values;                           // [rows, columns]
  const auto columns = std::min(numbers, values.size(1)), across = chunks_of(values.size(1), columns);
  return reduce_chunks(reducer, device, chunks_of(piece.rows(), rows) * across, [&](std::int64_t i, const at::Tensor& scratch) {
    const auto c = i % across * columns;
    return widen(values.narrow(0, i / across * rows, rows_at(i / across)).narrow(1, c, std::min(columns, values.size(1) - c)), scratch);
  });
}

/// Reducers on chosen matrices. Made once; `run` as often as there is something to log.
class Reductions {
 public:
  /// One all-reduce carries the row sums, 8 bytes each, of up to `rows_per_exchange` rows of tables split by columns.
  Reductions(std::vector<LoggedMatrix> matrices, std::int64_t rows_per_exchange)
      : matrices_(std::move(matrices)), rows_per_exchange_(rows_per_exchange) {
    check<ConfigError>(rows_per_exchange > 0, "rows_per_exchange is ", rows_per_exchange, "; it must be positive");
  }

  const std::vector<LoggedMatrix>& matrices() const { return matrices_; }

  /// Adds a matrix under a reducer.
  void add(std::size_t matrix, const ReducerFunctions& reducer) {
    auto pieces = reducer.input == ReducerInput::elements ? shard_pieces(matrices_[matrix]) : band_pieces(matrices_[matrix]);
    for (auto& piece : pieces) {
      piece.offset = size_;
      size_ += reducer.partial_size;
      if (piece.rank == LoggedPiece::split) split_rows_ += piece.rows();
    }
    entries_.push_back({matrix, &reducer, std::move(pieces)});
  }

  /// Reduces everything.
  /// Cost:    one pass over the local shards in chunks; one all-reduce of the partials and of up to `rows_per_exchange` row sums, one
  ///          more for each further `rows_per_exchange` rows of column-split tables; one transfer to the host.
  /// Ranks:   all, in the same order.
  template <class Topology> void run(Topology& topology) {
    if (size_ == 0) return;
    read_samples();
    reduce_local_pieces(topology.rank(), topology.device());
    for (std::int64_t begin = 0; begin == 0 || begin < split_rows_; begin += rows_per_exchange_)
      reduce_split_rows(begin, all_reduce(topology, to_add_up(begin)).wait());
    partials_ = partials_.cpu();
    for (auto& matrix : matrices_)
      for (std::size_t s = 0; s < matrix.sources.size(); ++s) matrix.shards[s].values.reset();
  }

  /// The number of entry `index` over the pieces that `counts(matrix, piece)` accepts, the same on every rank; NaN for no pieces.
  template <class Accept> double value(std::size_t index, Accept&& counts) const;
  double value(std::size_t index) const {
    return value(index, [](const LoggedMatrix&, const LoggedPiece&) { return true; });
  }

 private:
  struct Entry {
    std::size_t matrix = 0;
    const ReducerFunctions* reducer = nullptr;
    std::vector<LoggedPiece> pieces;
  };

  /// Copies the rows of sampled tables that are here and have reducers.
  void read_samples() {
    for (const auto& entry : entries_) {
      auto& matrix = matrices_[entry.matrix];
      for (std::size_t s = 0; s < matrix.sources.size(); ++s)
        if (matrix.sources[s].weight.defined()) matrix.shards[s].values = matrix.sources[s].weight.index_select(0, matrix.sources[s].rows);
    }
  }
  /// Partials of the pieces that lie on this rank; zeros for the others.
  void reduce_local_pieces(int rank, c10::Device device);
  /// What ranks add up: this rank's row sums of split rows from `begin` on, and at first the partials.
  at::Tensor to_add_up(std::int64_t begin) const;
  /// Reduces split rows from `begin` on, of which `sums` are added up over ranks; takes over the partials at first.
  void reduce_split_rows(std::int64_t begin, const at::Tensor& sums);

  std::int64_t end_of_exchange(std::int64_t begin) const { return std::min(split_rows_, begin + rows_per_exchange_); }

  /// Calls `fn(entry, piece, row, count, offset)` for the rows of split pieces that one exchange, of all of them in a line from `begin`
  /// on, holds.
  template <class Fn> void for_split_rows(std::int64_t begin, Fn&& fn) const {
    std::int64_t before = 0;
    for (const auto& entry : entries_)
      for (const auto& piece : entry.pieces) {
        if (piece.rank != LoggedPiece::split) continue;
        const auto from = std::max(begin, before), to = std::min(end_of_exchange(begin), before + piece.rows());
        if (from < to) fn(entry, piece, piece.row_begin + from - before, to - from, from - begin);
        before += piece.rows();
      }
  }

  std::vector<LoggedMatrix> matrices_;
  std::vector<Entry> entries_;
  std::int64_t rows_per_exchange_ = 0, size_ = 0, split_rows_ = 0;
  at::Tensor partials_;                          // [size_], on the host after a run
};

inline void Reductions::reduce_local_pieces(int rank, c10::Device device) {
  partials_ = ops::zeros({size_}, at::TensorOptions().dtype(at::kDouble).device(device));    // [size_]
  for (const auto& entry : entries_)
    for (const auto& piece : entry.pieces)
      if (piece.rank == rank)
        partials_.narrow(0, piece.offset, entry.reducer->partial_size)
            .copy_(reduce_piece(*entry.reducer, matrices_[entry.matrix], piece, device));
}

inline at::Tensor Reductions::to_add_up(std::int64_t begin) const {
  auto squares = ops::zeros({end_of_exchange(begin) - begin}, partials_.options());          // [end - begin]
  for_split_rows(begin, [&](const Entry& entry, const LoggedPiece& piece, std::int64_t row, std::int64_t count, std::int64_t offset) {
    const auto& matrix = matrices_[entry.matrix];
    const auto chunk = chunk_rows(matrix, piece, chunk_numbers_on(partials_.device()));
    for_chunks_on(partials_.device(), chunks_of(count, chunk), [&](std::int64_t first, std::int64_t last, const at::Tensor& scratch) {
      for (auto i = first * chunk; i < std::min(count, last * chunk); i += chunk) {
        const auto n = std::min(chunk, count - i);
        const auto own = row_squares(matrix, piece, row + i, n, scratch);                    // [n]
        if (own.defined()) squares.narrow(0, offset + i, n).copy_(own);
      }
    });
  });
  return begin == 0 ? ops::cat({squares, partials_}) : squares;
}

inline void Reductions::reduce_split_rows(std::int64_t begin, const at::Tensor& sums) {
  if (begin == 0) partials_ = sums.narrow(0, end_of_exchange(begin), size_).clone();         // [size_]
  for_split_rows(begin, [&](const Entry& entry, const LoggedPiece& piece, std::int64_t row, std::int64_t count, std::int64_t offset) {
    const auto totals = sums.narrow(0, offset, count);                                       // [count]
    const auto chunk = chunk_numbers_on(sums.device());
    auto merged = reduce_chunks(*entry.reducer, sums.device(), chunks_of(count, chunk), [&](std::int64_t i, const at::Tensor&) {
      return totals.narrow(0, i * chunk, std::min(chunk, count - i * chunk));
    });
    const auto slot = partials_.narrow(0, piece.offset, entry.reducer->partial_size);        // [partial_size]
    if (row > piece.row_begin) merged = entry.reducer->merge(ops::stack({slot, merged}));
    slot.copy_(merged);
  });
}

template <class Accept> double Reductions::value(std::size_t index, Accept&& counts) const {
  const auto& entry = entries_[index];
  const ReducerFunctions& reducer = *entry.reducer;
  std::vector<at::Tensor> accepted;
  std::int64_t count = 0;
  for (const auto& piece : entry.pieces) {
    if (!counts(matrices_[entry.matrix], piece)) continue;
    accepted.push_back(partials_.narrow(0, piece.offset, reducer.partial_size));             // [partial_size]
    count += piece.count;
  }
  if (accepted.empty()) return std::numeric_limits<double>::quiet_NaN();
  const at::Tensor merged = reducer.merge(ops::stack(accepted)).contiguous();                // [partial_size]
  return reducer.finish(std::span(merged.const_data_ptr<double>(), static_cast<std::size_t>(reducer.partial_size)), count);
}

}  // namespace rookery::detail
