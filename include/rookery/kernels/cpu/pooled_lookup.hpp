// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Lookups on the host: the sums of bags' rows, or the rows themselves, of all tables at once.
//
// Tasks are plain pointers and the functions are no templates; dtypes are switched inside. One parallel region serves all tasks:
// threads share the bytes that are to be read, not the bags. Sums of float16 and bfloat16 rows are float32; what goes to another rank
// may be written narrow. Ids were checked by whoever made a task.  Answers to FBGEMM's embedding forward.
// Include cost: none (c10 scalar types).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/kernels/cpu/bag_sum.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/row_ahead.hpp>

namespace rookery::kernels {

namespace detail {

/// Bags of one task that one thread has.
struct LookupShare {
  const LookupTask* task;
  std::int64_t begin, end;
};

/// What bags [0, bag) of a task cost, in bytes: their rows, and a line for each bag.
inline std::int64_t lookup_cost(const LookupTask& task, std::int64_t bag) {
  constexpr std::int64_t line = 64;
  return task.first_of(bag) * task.dim * task.element_size() + bag * line;
}

/// The first bag whose bags before it cost `cost` or more.
inline std::int64_t bag_at(const LookupTask& task, std::int64_t cost) {
  std::int64_t low = 0, high = task.bags;
  while (low < high) {
    const auto middle = low + (high - low) / 2;
    if (lookup_cost(task, middle) >= cost) high = middle;
    else low = middle + 1;
  }
  return low;
}

/// What part `part` of `parts` has of all tasks.
inline std::vector<LookupShare> share_of(std::span<const LookupTask> tasks, std::int64_t total, std::int64_t part, std::int64_t parts) {
  std::vector<LookupShare> shares;
  const auto first = total * part / parts, last = total * (part + 1) / parts;
  std::int64_t before = 0;
  for (const auto& task : tasks) {
    const auto cost = lookup_cost(task, task.bags);
    if (before + cost > first && before < last) {
      const auto begin = first <= before ? 0 : bag_at(task, first - before);
      const auto end = last >= before + cost ? task.bags : bag_at(task, last - before);
      if (begin < end) shares.push_back({&task, begin, end});
    }
    before += cost;
  }
  return shares;
}

/// Writes bags of a task, through `scratch` where they are wanted narrow.
inline void look_up(const LookupShare& share, RowAhead* ahead, std::vector<std::byte>& scratch) {
  const auto& task = *share.task;
  const auto sum = sum_bags_of(task.dtype);
  const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(task.dtype)));
  const auto narrow = is_narrow(task.out_dtype);
  const auto size = narrow ? 2 : number;
  auto* out = static_cast<std::byte*>(task.out) + share.begin * task.out_stride * size;
  if (!narrow) return sum(task, share.begin, share.end, out, task.out_stride, ahead);
  constexpr std::int64_t together = 16;
  scratch.resize(static_cast<std::size_t>(together * task.dim * number));
  for (auto bag = share.begin; bag < share.end; bag += together) {
    const auto end = std::min(share.end, bag + together);
    sum(task, bag, end, scratch.data(), task.dim, ahead);
    for_floating(compute_dtype(task.dtype), [&](auto zero) {
      const auto* sums = reinterpret_cast<const decltype(zero)*>(scratch.data());
      for (auto b = bag; b < end; ++b, out += task.out_stride * size) store(sums + (b - bag) * task.dim, task.dim, task.out_dtype, out);
    });
  }
}

/// What a thread has to do, one task after the other.
inline void look_up(std::span<const LookupShare> shares) {
  const auto& policy = prefetch_policy();
  std::vector<RowsAhead> lists;
  const auto is_cached = [&](const LookupTask& task) {
    return task.weights && task.rows > 0 && task.rows * task.stride * task.element_size() <= policy.cached;
  };
  for (const auto& [task, begin, end] : shares)
    if (!is_cached(*task))
      lists.push_back({reinterpret_cast<std::uintptr_t>(task->weights), task->byte_stride(), task->dim * task->element_size(),
                       task->ids + task->first_of(begin), task->ids + task->first_of(end)});
  RowAhead ahead(lists, policy.bytes);
  std::vector<std::byte> scratch;
  for (const auto& share : shares) look_up(share, is_cached(*share.task) || policy.bytes == 0 ? nullptr : &ahead, scratch);
}

}  // namespace detail

/// out[b] = the sum over bag b of weight * row, for each task; of tasks without offsets, out[i] = the row of id i.
/// Cost: one pass over the rows named; one parallel region.
inline void look_up(std::span<const LookupTask> tasks) {
  std::int64_t total = 0;
  for (const auto& task : tasks) total += detail::lookup_cost(task, task.bags);
  constexpr std::int64_t worth_a_region = 128 * 1024;
  const auto parts = total < worth_a_region ? 1 : threads_here();
  parallel(parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto part = begin; part < end; ++part) detail::look_up(detail::share_of(tasks, total, part, parts));
  });
}

}  // namespace rookery::kernels
