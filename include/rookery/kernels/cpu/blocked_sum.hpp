// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sums of many rows: in blocks, because each float32 addition to a large sum rounds, and a million of .1 one by one are 100958.
//
// The order is fixed by the number of rows alone, so results do not depend on threads. Answers to fbgemm's sums, which are not in
// blocks.  Include cost: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rookery::kernels::detail {

/// out[d] = the sum over i in [begin, end) of what `add(i)` adds to out. Blocks of 64 are summed in `Number`, and blocks in double: the
/// relative error of a float32 sum of like signs is below 64 * 2^-24, however long it is. `wide` is used by sums of several blocks only.
template <class Number, class Add>
void sum_in_blocks(std::int64_t begin, std::int64_t end, std::int64_t dim, Number* out, std::vector<double>& wide, Add&& add) {
  constexpr std::int64_t block = 64;
  const bool is_long = end - begin > block;
  if (is_long) wide.assign(static_cast<std::size_t>(dim), 0);
  std::fill_n(out, dim, Number{0});
  while (begin < end) {
    for (const std::int64_t stop = std::min(end, begin + block); begin < stop; ++begin) add(begin);
    if (!is_long) return;
    for (std::int64_t d = 0; d < dim; ++d) {
      auto& sum = wide[static_cast<std::size_t>(d)];
      sum += static_cast<double>(out[d]);
      out[d] = begin < end ? Number{0} : static_cast<Number>(sum);
    }
  }
}

}  // namespace rookery::kernels::detail
