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
  /// The list that rows are asked for from, as far as it has come. Kernels hold it in registers.
  using At = RowsAhead;

  /// Asks for the first rows. `lists` are what will be read, without the tables that are in the cache.
  RowAhead(std::span<const RowsAhead> lists, std::int64_t bytes) : next_(lists.data()), last_(lists.data() + lists.size()) {
    if (bytes == 0) next_ = last_;
    if (lists.empty()) return;
    for (auto distance = 1 + bytes / (lists.front().row_bytes + 1); distance > 0; --distance) ask<0>(at_);
  }
  const At& at() const { return at_; }
  void go_on_at(const At& at) { at_ = at; }

  /// Asks for one row more: for `usual_bytes` without a loop, and for what a row has beyond them.
  template <int usual_bytes> [[gnu::always_inline]] void ask(At& at) {
    if (at.begin == at.end) [[unlikely]] if (!next_list(at)) return;
    const auto row = at.first + static_cast<std::uintptr_t>(*at.begin++ * at.stride);
    constexpr std::uintptr_t line = 64;
    std::uintptr_t i = 0;
#pragma GCC unroll 16
    for (; i < usual_bytes; i += line) __builtin_prefetch(reinterpret_cast<const void*>(row + i), 0, 3);
    for (; i < static_cast<std::uintptr_t>(at.row_bytes); i += line) __builtin_prefetch(reinterpret_cast<const void*>(row + i), 0, 3);
  }

 private:
  bool next_list(At& at) {
    while (next_ != last_) {
      at = *next_++;
      if (at.begin != at.end) return true;
    }
    return false;
  }

  const RowsAhead *next_, *last_;
  At at_;
};

}  // namespace detail
}  // namespace rookery::kernels
