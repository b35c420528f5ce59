// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Products of all pairs of a row's vectors, and their gradient: the interaction of DLRM, of which no square of products is written.
//
// A row's vectors are put side by side by column, so that a vector register holds one column of many of them; its products stay in the
// nearest cache until the half that is wanted is copied out. Numbers are added in the order of columns, or of vectors, on any machine.
// Answers to the bmm and gather of torchrec's InteractionArch.  Include cost: none (c10 scalar types).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <rookery/core/parallel.hpp>
#include <rookery/kernels/cpu/vector.hpp>

namespace rookery::kernels {

/// Rows of F vectors each of D numbers, [B, F, D], side by side.
template <class Number> struct VectorRows {
  const Number* vectors = nullptr;
  std::int64_t rows = 0, count = 0, dim = 0;

  std::int64_t pairs() const { return count * (count - 1) / 2; }
};

namespace detail {

/// to[i] = the sum over j of factors[i * rows + j] * vectors[j * width + ..], `width` numbers each, for i < count: a product of matrices
/// whose columns [begin, width) are wanted, where `begin` is 0 or, with `above`, that of i + 1.
template <int lanes, bool above, class Number>
[[gnu::always_inline]] inline void multiply(const Number* factors, std::int64_t count, std::int64_t rows, const Number* vectors,
                                            std::int64_t width, Number* to) {
  for (std::int64_t i = 0; i < count; ++i, factors += rows, to += width)
    for (std::int64_t column = above ? (i + 1) / lanes * lanes : 0; column < width; column += lanes) {
      Vector<Number, lanes> sum{}, values;
      for (std::int64_t j = 0; j < rows; ++j) {
        read<lanes>(vectors + j * width + column, values);
        sum += factors[j] * values;
      }
      __builtin_memcpy(to + column, &sum, sizeof sum);
    }
}

inline std::int64_t whole(std::int64_t numbers, std::int64_t lanes) { return (numbers + lanes - 1) / lanes * lanes; }

/// Rows [begin, end) of pair_products, or with `gradients` [B, pairs] of its gradient.
template <int lanes, class Number>
[[gnu::always_inline]] inline void pair_rows(const VectorRows<Number>& all, const Number* gradients, std::int64_t begin, std::int64_t end,
                                             Number* out) {
  const auto count = all.count, dim = all.dim, pairs = all.pairs();
  const auto wide_count = whole(count, lanes), wide_dim = whole(dim, lanes);
  std::vector<Number> factors(static_cast<std::size_t>(std::max(count * count, dim * wide_count)));
  std::vector<Number> sums(static_cast<std::size_t>(count * std::max(wide_count, 2 * wide_dim)));
  auto *first = factors.data(), *second = sums.data();
  for (auto row = begin; row < end; ++row) {
    const auto* vectors = all.vectors + row * count * dim;
    if (!gradients) {
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t d = 0; d < dim; ++d) first[d * wide_count + i] = vectors[i * dim + d];   // [D, F]
      multiply<lanes, true>(vectors, count, dim, first, wide_count, second);                 // [F, F]
      auto* to = out + row * pairs;
      for (std::int64_t i = 0; i < count; to += count - 1 - i, ++i)
        std::copy(second + i * wide_count + i + 1, second + i * wide_count + count, to);
    } else {
      const auto* from = gradients + row * pairs;
      for (std::int64_t i = 0; i < count; ++i) {
        first[i * count + i] = 0;
        for (auto j = i + 1; j < count; ++j) first[i * count + j] = first[j * count + i] = *from++;      // [F, F]
      }
      auto* to = out + row * count * dim;
      if (wide_dim == dim) {
        multiply<lanes, false>(first, count, count, vectors, dim, to);                       // [F, D]
        continue;
      }
      auto *padded = second, *found = second + count * wide_dim;
      for (std::int64_t i = 0; i < count; ++i) std::copy(vectors + i * dim, vectors + (i + 1) * dim, padded + i * wide_dim);
      multiply<lanes, false>(first, count, count, padded, wide_dim, found);
      for (std::int64_t i = 0; i < count; ++i) std::copy(found + i * wide_dim, found + i * wide_dim + dim, to + i * dim);
    }
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
[[gnu::target("avx512f,avx512bw,avx512vl"), gnu::optimize("fp-contract=off"), gnu::noinline]]
inline void pair_rows_avx512(const VectorRows<float>& all, const float* gradients, std::int64_t begin, std::int64_t end, float* out) {
  pair_rows<16>(all, gradients, begin, end, out);
}
[[gnu::target("avx2"), gnu::noinline]]
inline void pair_rows_avx2(const VectorRows<float>& all, const float* gradients, std::int64_t begin, std::int64_t end, float* out) {
  pair_rows<8>(all, gradients, begin, end, out);
}
#endif
template <class Number>
[[gnu::noinline]] void pair_rows_plain(const VectorRows<Number>& all, const Number* gradients, std::int64_t begin, std::int64_t end,
                                       Number* out) {
  pair_rows<16 / sizeof(Number)>(all, gradients, begin, end, out);
}

/// pair_rows of all rows.
template <class Number> void all_pair_rows(const VectorRows<Number>& all, const Number* gradients, Number* out) {
  auto* some = &pair_rows_plain<Number>;
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Number, float>) {
    if (instruction_set() == InstructionSet::avx512) some = &pair_rows_avx512;
    else if (instruction_set() == InstructionSet::avx2) some = &pair_rows_avx2;
  }
#endif
  const auto products = std::max<std::int64_t>(1, all.pairs() * all.dim);
  parallel(all.rows, 1 + 65536 / products, [&](std::int64_t begin, std::int64_t end) { some(all, gradients, begin, end, out); });
}

}  // namespace detail

/// The dot products of all pairs i < j of each row's vectors, [B, F * (F - 1) / 2]: (0,1), (0,2), .., (1,2), ..
template <class Number> void pair_products(const VectorRows<Number>& all, Number* out) {
  detail::all_pair_rows<Number>(all, nullptr, out);
}
/// What they give the vectors [B, F, D] for gradients [B, F * (F - 1) / 2].
template <class Number> void pair_gradients(const VectorRows<Number>& all, const Number* gradients, Number* out) {
  detail::all_pair_rows<Number>(all, gradients, out);
}

}  // namespace rookery::kernels
