// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// tune_prefetch: how far ahead rows are asked for on this machine, measured once a process on the first table that is far larger than a
// cache, within 50 ms.
//
// The best distance differs by machine and by how many cores work; no result hangs on it.
// Answers to FBGEMM's fixed prefetch distance of 16 rows.  Include cost: none.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/kernels/cpu/bag_sum.hpp>
#include <rookery/kernels/cpu/row_ahead.hpp>

namespace rookery::kernels {

/// Distances that are tried, in bytes of rows.
inline constexpr std::array<std::int64_t, 6> prefetch_distances{0, 2048, 4096, 8192, 16384, 32768};

/// Sets `prefetch_policy().bytes` to what reads random rows of a table fastest, the first time that a table is large enough.
/// Cost: 40 ms once, for tables of 64 MB and more.
inline void tune_prefetch(c10::ScalarType dtype, const void* weights, std::int64_t rows, std::int64_t stride, std::int64_t dim) {
  constexpr std::int64_t large = std::int64_t{64} << 20, count = 4096;
  LookupTask task{.dtype = dtype, .weights = weights, .stride = stride, .dim = dim};
  if (rows * stride * task.element_size() < large) return;
  static std::atomic<bool> tuned = false;
  if (tuned.exchange(true)) return;
  std::vector<std::int64_t> ids(count), offsets;
  for (std::int64_t at = 0; at <= count; at += 16) offsets.push_back(at);
  std::vector<double> out(static_cast<std::size_t>(dim));    // of one bag, in either dtype
  task.ids = ids.data();
  task.offsets = offsets.data();
  task.bags = count / 16;
  const auto sum = detail::sum_bags_of(dtype);
  std::array<double, prefetch_distances.size()> best;
  best.fill(1e30);
  std::uint64_t draw = 0;
  const auto stop = Clock::now() + std::chrono::milliseconds(40);
  while (Clock::now() < stop)
    for (std::size_t c = 0; c < best.size(); ++c) {
      for (auto& id : ids) id = static_cast<std::int64_t>(mix64(++draw) % static_cast<std::uint64_t>(rows));
      const detail::RowsAhead list{reinterpret_cast<std::uintptr_t>(weights), task.byte_stride(), dim * task.element_size(), ids.data(),
                                   ids.data() + count};
      const auto begin = Clock::now();
      detail::RowAhead ahead(std::span(&list, 1), prefetch_distances[c]);
      sum(task, 0, task.bags, out.data(), 0, prefetch_distances[c] == 0 ? nullptr : &ahead);
      best[c] = std::min(best[c], std::chrono::duration<double>(Clock::now() - begin).count());
    }
  prefetch_policy().bytes = prefetch_distances[static_cast<std::size_t>(std::min_element(best.begin(), best.end()) - best.begin())];
}

}  // namespace rookery::kernels
