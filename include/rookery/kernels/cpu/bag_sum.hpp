// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sums of rows that lie anywhere: the inner loop of lookups and of gradient sums.
//
// Columns are taken in pieces of a width that is known at compile time, whose sums stay in registers; every width of a table is made
// of such pieces. Sums of many rows are taken in blocks, because each float32 addition to a large sum rounds; the order is fixed by
// the bag alone.  Answers to FBGEMM's EmbeddingSpMDM kernels.  Include cost: none (c10 scalar types).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

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

/// Adds sums of a block to `wide`, and begins them anew, or ends with the sum of all.
template <class Number> [[gnu::noinline]] void add_block(Number* sums, int width, bool is_first, bool is_last, double* wide) {
  for (int d = 0; d < width; ++d) {
    wide[d] = (is_first ? 0 : wide[d]) + static_cast<double>(sums[d]);
    sums[d] = is_last ? static_cast<Number>(wide[d]) : 0;
  }
}

/// Some bags of a task, and some of its columns.
struct BagPiece {
  const LookupTask* task;
  std::int64_t begin, end;                   // bags
  std::int64_t column;
  void* out;                                 // of bag `begin` and column 0
  std::int64_t out_stride;
  RowAhead* ahead;                           // null: rows are not asked for
};

/// out[d] = the sum over a bag's rows of factor * row[d], for `width` columns, whose sums stay in vectors of so many bytes.
template <class Weight, int width, int vector_bytes> [[gnu::always_inline]] inline void sum_piece(const BagPiece& piece) {
  using Number = std::conditional_t<std::is_same_v<Weight, double>, double, float>;
  constexpr int lanes = std::min<int>(width, vector_bytes / static_cast<int>(sizeof(Number))), vectors = width / lanes;
  constexpr std::int64_t block = 64;
  const auto& task = *piece.task;
  const auto stride = task.byte_stride();
  const auto* const factors = task.offsets ? task.sample_weights : nullptr;
  const auto first = reinterpret_cast<std::uintptr_t>(task.weights) + static_cast<std::uintptr_t>(piece.column) * sizeof(Weight);
  Vector<Number, lanes> start{};
  if (!task.offsets) start = -start;                         // a row alone stays what it is, a zero's sign too
  auto* out = static_cast<Number*>(piece.out) + piece.column;
  RowAhead::At ahead;
  if (piece.ahead) ahead = piece.ahead->at();
  for (auto bag = piece.begin; bag < piece.end; ++bag, out += piece.out_stride) {
    auto begin = task.first_of(bag);
    const auto end = task.first_of(bag + 1);
    const bool is_long = end - begin > block;
    double wide[width];
    Vector<Number, lanes> sums[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) sums[v] = start;
    do {
      for (const auto stop = std::min(end, begin + block); begin < stop; ++begin) {
        if (piece.ahead) piece.ahead->template ask<width * sizeof(Weight)>(ahead);
        const auto* row = reinterpret_cast<const Weight*>(first + static_cast<std::uintptr_t>(task.ids[begin] * stride));
        const auto add = [&](auto factor) __attribute__((always_inline)) {
#pragma GCC unroll 16
          for (int v = 0; v < vectors; ++v) {
            Vector<Number, lanes> values;
            read<lanes>(row + v * lanes, values);
            if constexpr (std::is_same_v<decltype(factor), Number>) sums[v] += factor * values;
            else sums[v] += values;
          }
        };
        if constexpr (std::is_same_v<Weight, float>) {         // elsewhere a product with 1 is hidden behind other work, and half the code
          if (factors) add(static_cast<Number>(factors[begin]));
          else add(nullptr);
        } else {
          add(factors ? static_cast<Number>(factors[begin]) : Number{1});
        }
      }
      if (is_long) [[unlikely]] {
        Number done[width];                                  // the sums themselves stay in registers
        __builtin_memcpy(done, sums, sizeof done);
        add_block(done, width, begin == task.first_of(bag) + block, begin == end, wide);
        __builtin_memcpy(sums, done, sizeof done);
      }
    } while (begin < end);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) __builtin_memcpy(out + v * lanes, &sums[v], sizeof sums[v]);
  }
  if (piece.ahead) piece.ahead->go_on_at(ahead);
}

using SumPiece = void (*)(const BagPiece&);

#if defined(__x86_64__) && defined(__GNUC__)
template <class Weight, int width>
[[gnu::target("avx512f,avx512bw,avx512vl"), gnu::optimize("fp-contract=off"), gnu::noinline]] void sum_piece_avx512(const BagPiece& piece) {
  sum_piece<Weight, width, 64>(piece);
}
template <class Weight, int width> [[gnu::target("avx2"), gnu::noinline]] void sum_piece_avx2(const BagPiece& piece) {
  sum_piece<Weight, width, 32>(piece);
}
#endif
template <class Weight, int width> [[gnu::noinline]] void sum_piece_plain(const BagPiece& piece) { sum_piece<Weight, width, 16>(piece); }

/// A kernel for some columns.
struct WidthKernel {
  std::int64_t width;
  SumPiece sum;
};

/// The widths that there are, falling; the last is 1. Narrow rows have few: their kernels are larger, and shorter rows are read sooner.
template <class Weight> std::span<const WidthKernel> width_kernels() {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Weight, float>) {
    static constexpr WidthKernel wide[] = {{128, sum_piece_avx512<float, 128>}, {64, sum_piece_avx512<float, 64>},
                                           {32, sum_piece_avx512<float, 32>},   {16, sum_piece_avx512<float, 16>},
                                           {8, sum_piece_avx512<float, 8>},     {4, sum_piece_avx512<float, 4>},
                                           {1, sum_piece_avx512<float, 1>}};
    static constexpr WidthKernel half[] = {{64, sum_piece_avx2<float, 64>}, {16, sum_piece_avx2<float, 16>}, {4, sum_piece_avx2<float, 4>},
                                           {1, sum_piece_avx2<float, 1>}};
    if (instruction_set() == InstructionSet::avx512) return wide;
    if (instruction_set() == InstructionSet::avx2) return half;
  } else if constexpr (!std::is_same_v<Weight, double>) {
    static constexpr WidthKernel wide[] = {{64, sum_piece_avx512<Weight, 64>}, {16, sum_piece_avx512<Weight, 16>},
                                           {1, sum_piece_avx512<Weight, 1>}};
    static constexpr WidthKernel half[] = {{16, sum_piece_avx2<Weight, 16>}, {1, sum_piece_avx2<Weight, 1>}};
    if (instruction_set() == InstructionSet::avx512) return wide;
    if (instruction_set() == InstructionSet::avx2) return half;
  }
#endif
  static constexpr WidthKernel kernels[] = {{8, sum_piece_plain<Weight, 8>}, {1, sum_piece_plain<Weight, 1>}};
  return kernels;
}

/// Bags [begin, end) of a task into `out`, whose rows are `out_stride` numbers of the compute_dtype apart.
template <class Weight>
void sum_bags(const LookupTask& task, std::int64_t begin, std::int64_t end, void* out, std::int64_t out_stride, RowAhead* ahead) {
  using Number = std::conditional_t<std::is_same_v<Weight, double>, double, float>;
  const auto kernels = width_kernels<Weight>();
  constexpr std::int64_t together = 8;                       // bags whose rows stay in the cache from one piece to the next
  const auto step = kernels.front().width == task.dim ? end - begin : together;
  for (auto bag = begin; bag < end; bag += step) {
    auto* first = static_cast<Number*>(out) + (bag - begin) * out_stride;
    std::int64_t column = 0;
    for (const auto& [width, sum] : kernels)
      for (; column + width <= task.dim; column += width)
        sum({&task, bag, std::min(end, bag + step), column, first, out_stride, column == 0 ? ahead : nullptr});
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
