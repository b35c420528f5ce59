// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rows that a kernel will read soon, asked of memory ahead of time: across the borders of bags and of tables.
//
// Answers to FBGEMM's prefetch_dist; differs: it does not stop at a table's end, and tables that lie in the cache are left out.
// Include cost: none.

#include <cstddef>
#include <cstdint>
#include <span>

namespace rookery::kernels {

/// How far ahead rows are asked for.
struct PrefetchPolicy {
  std::int64_t bytes = 16384;                      // of rows between the one that is read and the one that is asked for; 0: none
  std::int64_t cached = 512 * 1024;                // tables of so many bytes are in a core's own cache
};

/// What the kernels of this process do.
inline PrefetchPolicy& prefetch_policy() {
  static PrefetchPolicy policy;
  return policy;
}

namespace detail {

/// Rows of one table that will be read in this order: row k at first + numbers[k] * stride.
struct RowsAhead {
  std::uintptr_t first = 0;
  std::int64_t stride = 0, row_bytes = 0;
  const std::int64_t *begin = nullptr, *end = nullptr;
};

/// Runs a fixed number of rows ahead of the kernel that reads them.
class RowAhead {
 public:
  /// Asks for the first rows. `lists` are what will be read, without the tables that are in the cache.
  RowAhead(std::span<const RowsAhead> lists, std::int64_t bytes) : next_(lists.data()), last_(lists.data() + lists.size()) {
    if (bytes == 0) next_ = last_;
    if (!lists.empty())
      for (auto distance = 1 + bytes / (lists.front().row_bytes + 1); distance > 0; --distance) step();
  }
  [[gnu::always_inline]] void step() {
    while (at_ == end_) {
      if (next_ == last_) return;
      at_ = next_->begin;
      end_ = next_->end;
      first_ = next_->first;
      stride_ = next_->stride;
      bytes_ = next_->row_bytes;
      ++next_;
    }
    constexpr std::uintptr_t line = 64;
    const auto row = first_ + static_cast<std::uintptr_t>(*at_++ * stride_), stop = row + static_cast<std::uintptr_t>(bytes_);
    for (auto at = row; at < stop; at += line) __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 3);
  }

 private:
  const RowsAhead *next_, *last_;
  const std::int64_t *at_ = nullptr, *end_ = nullptr;
  std::uintptr_t first_ = 0;
  std::int64_t stride_ = 0, bytes_ = 0;
};

}  // namespace detail
}  // namespace rookery::kernels
