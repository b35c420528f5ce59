// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sums of rows that lie anywhere: the inner loop of lookups and of gradient sums.
//
// Columns are taken in pieces of a width that is known at compile time, whose sums stay in registers; every width of a table is made
// of such pieces. Sums of many rows are taken in blocks, because each float32 addition to a large sum rounds; the order is fixed by
// the bag alone.  Answers to FBGEMM's EmbeddingSpMDM kernels.  Include cost: none (c10 scalar types).

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/kernels/cpu/row_ahead.hpp>
#include <rookery/kernels/cpu/vector.hpp>

namespace rookery::kernels {

/// Bags over the rows of one table shard.
struct LookupTask {
  c10::ScalarType dtype;                     // of weights
  const void* weights = nullptr;             // row r starts at element r * stride; null: ids are the addresses of rows
  std::int64_t stride = 0, dim = 0;
  const std::int64_t* ids = nullptr;         // [offsets[bags] - offsets[0]]; rows of this shard
  const std::int64_t* offsets = nullptr;     // [bags + 1]; absolute, the first id of the task has number offsets[0]; null: each id alone
  const double* sample_weights = nullptr;    // as ids; null when unweighted
  std::int64_t bags = 0;
  void* out = nullptr;                       // bag b at element b * out_stride
  std::int64_t out_stride = 0;
  c10::ScalarType out_dtype = c10::ScalarType::Undefined;   // float16 or bfloat16; else out has the compute_dtype of weights
  std::int64_t rows = 0;                     // of the shard, where they are known: few are in the cache

  std::int64_t first_of(std::int64_t bag) const { return offsets ? offsets[bag] - offsets[0] : bag; }
  std::int64_t element_size() const { return static_cast<std::int64_t>(c10::elementSize(dtype)); }
  std::int64_t byte_stride() const { return weights ? stride * element_size() : 1; }
};

namespace detail {

/// Rows that are summed one after the other, at most: each float32 addition to a large sum rounds.
inline constexpr std::int64_t most_in_a_sum = 64;

/// Some bags of a task, and some of its columns.
struct BagPiece {
  const LookupTask* task;
  std::int64_t begin, end;                   // bags
  std::int64_t column;
  void* out;                                 // of bag `begin` and column 0
  std::int64_t out_stride;
  RowAhead* ahead;                           // null: rows are not asked for
};

/// sums += factor * row; of no factor, the row as it is.
template <int vectors, class Weight, class Sums, class Number>
[[gnu::always_inline]] inline void add_row(std::uintptr_t row, const Number* factor, Sums* sums) {
  constexpr int lanes = sizeof(Sums) / sizeof(Number);
#pragma GCC unroll 16
  for (int v = 0; v < vectors; ++v) {
    Sums values;
    read<lanes>(reinterpret_cast<const Weight*>(row) + v * lanes, values);
    if (factor) values *= *factor;
    sums[v] += values;
  }
}

/// out[d] = the sum over a bag's rows of factor * row[d], for `width` columns, whose sums stay in vectors of so many bytes.
/// Returns the first bag that has too many rows for that, or the end.
template <class Weight, int width, int vector_bytes> [[gnu::always_inline]] inline std::int64_t sum_piece(const BagPiece& piece) {
  using Number = std::conditional_t<std::is_same_v<Weight, double>, double, float>;
  constexpr int lanes = std::min<int>(width, vector_bytes / static_cast<int>(sizeof(Number))), vectors = width / lanes;
  constexpr bool is_short = !std::is_same_v<Weight, float>;   // less code; a product with 1 is hidden behind other work
  using Sums = Vector<Number, lanes>;
  const auto& task = *piece.task;
  const auto stride = task.byte_stride();
  const auto* const ids = task.ids;
  const auto* const ends = task.offsets ? task.offsets + 1 : nullptr;
  const auto* const factors = ends ? task.sample_weights : nullptr;
  const auto before = ends ? task.offsets[0] : 0;
  const auto first = reinterpret_cast<std::uintptr_t>(task.weights) + static_cast<std::uintptr_t>(piece.column) * sizeof(Weight);
  Sums start{};
  if (!ends) start = -start;                                 // a row alone stays what it is, a zero's sign too
  auto* out = static_cast<Number*>(piece.out) + piece.column;
  RowAhead::At ahead;
  if (piece.ahead) ahead = piece.ahead->at();
  auto bag = piece.begin;
  for (auto i = task.first_of(bag); bag < piece.end; ++bag, out += piece.out_stride) {
    const auto end = ends ? ends[bag] - before : bag + 1;
    if (end - i > most_in_a_sum) [[unlikely]] break;
    Sums sums[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sums[v] = start;
    const auto row = [&] { return first + static_cast<std::uintptr_t>(ids[i] * stride); };
    if (is_short || factors)
      for (; i < end; ++i) {
        if (piece.ahead) piece.ahead->template ask<width * sizeof(Weight)>(ahead);
        const auto factor = is_short && !factors ? Number{1} : static_cast<Number>(factors[i]);
        add_row<vectors, Weight>(row(), &factor, sums);
      }
    else if (piece.ahead)
      for (; i < end; ++i) {
        piece.ahead->template ask<width * sizeof(Weight)>(ahead);
        add_row<vectors, Weight, Sums, Number>(row(), nullptr, sums);
      }
    else
      for (; i < end; ++i) add_row<vectors, Weight, Sums, Number>(row(), nullptr, sums);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) __builtin_memcpy(out + v * lanes, &sums[v], sizeof sums[v]);
  }
  if (piece.ahead) piece.ahead->go_on_at(ahead);
  return bag;
}

using SumPiece = std::int64_t (*)(const BagPiece&);

#if defined(__x86_64__) && defined(__GNUC__)
template <class Weight, int width>
[[gnu::target("avx512f,avx512bw,avx512vl"), gnu::optimize("fp-contract=off"), gnu::noinline]]
std::int64_t sum_piece_avx512(const BagPiece& piece) {
  return sum_piece<Weight, width, 64>(piece);
}
template <class Weight, int width> [[gnu::target("avx2"), gnu::noinline]] std::int64_t sum_piece_avx2(const BagPiece& piece) {
  return sum_piece<Weight, width, 32>(piece);
}
#endif
template <class Weight, int width> [[gnu::noinline]] std::int64_t sum_piece_plain(const BagPiece& piece) {
  return sum_piece<Weight, width, 16>(piece);
}

/// A kernel for some columns.
struct WidthKernel {
  std::int64_t width;
  SumPiece sum;
};

/// The widths that there are, falling; the last is 1. Widths of less than a vector are those of plain code.
template <class Weight> std::span<const WidthKernel> width_kernels() {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Weight, float>) {
    static constexpr WidthKernel wide[] = {{128, sum_piece_avx512<float, 128>}, {64, sum_piece_avx512<float, 64>},
                                           {32, sum_piece_avx512<float, 32>},   {16, sum_piece_avx512<float, 16>},
                                           {8, sum_piece_plain<float, 8>},      {4, sum_piece_plain<float, 4>},
                                           {1, sum_piece_plain<float, 1>}};
    static constexpr WidthKernel half[] = {{64, sum_piece_avx2<float, 64>}, {16, sum_piece_avx2<float, 16>},
                                           {8, sum_piece_plain<float, 8>},  {4, sum_piece_plain<float, 4>},
                                           {1, sum_piece_plain<float, 1>}};
    if (instruction_set() == InstructionSet::avx512) return wide;
    if (instruction_set() == InstructionSet::avx2) return half;
  } else if constexpr (!std::is_same_v<Weight, double>) {
    static constexpr WidthKernel wide[] = {{128, sum_piece_avx512<Weight, 128>}, {64, sum_piece_avx512<Weight, 64>},
                                           {16, sum_piece_avx512<Weight, 16>},   {8, sum_piece_plain<Weight, 8>},
                                           {1, sum_piece_plain<Weight, 1>}};
    static constexpr WidthKernel half[] = {{16, sum_piece_avx2<Weight, 16>}, {8, sum_piece_plain<Weight, 8>},
                                           {1, sum_piece_plain<Weight, 1>}};
    if (instruction_set() == InstructionSet::avx512) return wide;
    if (instruction_set() == InstructionSet::avx2) return half;
  }
#endif
  static constexpr WidthKernel kernels[] = {{8, sum_piece_plain<Weight, 8>}, {1, sum_piece_plain<Weight, 1>}};
  return kernels;
}

/// Bags [begin, end) of a task into `out`, all columns of them, up to one that has too many rows; returns that one's number, or the end.
template <class Weight>
std::int64_t sum_short_bags(const LookupTask& task, std::int64_t begin, std::int64_t end, void* out, std::int64_t out_stride,
                            RowAhead* ahead) {
  std::int64_t column = 0;
  for (const auto& [width, sum] : width_kernels<Weight>())
    for (; column + width <= task.dim; column += width)
      end = sum({&task, begin, end, column, out, out_stride, column == 0 ? ahead : nullptr});
  return end;
}

/// One bag of any number of rows: sums of blocks of them, added up in float64.
template <class Weight, class Number> void sum_long_bag(const LookupTask& task, std::int64_t bag, Number* out, RowAhead* ahead) {
  const auto end = task.first_of(bag + 1);
  std::vector<double> wide(static_cast<std::size_t>(task.dim));
  std::array<std::int64_t, 2> offsets{};
  auto block = task;
  block.offsets = offsets.data();
  for (auto i = task.first_of(bag); i < end; i += most_in_a_sum) {
    offsets[1] = std::min(most_in_a_sum, end - i);
    block.ids = task.ids + i;
    if (task.sample_weights) block.sample_weights = task.sample_weights + i;
    sum_short_bags<Weight>(block, 0, 1, out, task.dim, ahead);
    for (std::int64_t d = 0; d < task.dim; ++d) wide[static_cast<std::size_t>(d)] += static_cast<double>(out[d]);
  }
  for (std::int64_t d = 0; d < task.dim; ++d) out[d] = static_cast<Number>(wide[static_cast<std::size_t>(d)]);
}

/// Bags [begin, end) of a task into `out`, whose rows are `out_stride` numbers of the compute_dtype apart.
template <class Weight>
void sum_bags(const LookupTask& task, std::int64_t begin, std::int64_t end, void* out, std::int64_t out_stride, RowAhead* ahead) {
  using Number = std::conditional_t<std::is_same_v<Weight, double>, double, float>;
  constexpr std::int64_t together = 8;                       // bags whose rows stay in the cache from one piece to the next
  const auto step = width_kernels<Weight>().front().width == task.dim ? end - begin : together;
  const auto out_of = [&](std::int64_t bag) { return static_cast<Number*>(out) + (bag - begin) * out_stride; };
  for (auto bag = begin; bag < end;) {
    const auto stop = sum_short_bags<Weight>(task, bag, std::min(end, bag + step), out_of(bag), out_stride, ahead);
    if (stop == bag) sum_long_bag<Weight>(task, bag, out_of(bag), ahead);
    bag = std::max(stop, bag + 1);
  }
}

using SumBags = void (*)(const LookupTask&, std::int64_t begin, std::int64_t end, void* out, std::int64_t out_stride, RowAhead*);

/// sum_bags of rows of a dtype.
inline SumBags sum_bags_of(c10::ScalarType dtype) {
  return for_table(dtype, [](auto weight, auto) -> SumBags { return &sum_bags<decltype(weight)>; });
}

#ifdef ROOKERY_KERNELS_EXTERN                // instantiated in one file of the project: kernels/cpu/instantiate.hpp
extern template void sum_bags<float>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
extern template void sum_bags<double>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
extern template void sum_bags<c10::Half>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
extern template void sum_bags<c10::BFloat16>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
#endif

}  // namespace detail
}  // namespace rookery::kernels
