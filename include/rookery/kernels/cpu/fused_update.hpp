// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Fused update: the gradients of each distinct row are summed and the row is updated at once, for all tables in one parallel region.
//
// A thread owns whole shards where these share out evenly, and of the other shards rows by their number. It takes the ids of its rows,
// sorts them, and goes through the rows a few at a time: sums, which stay in its cache, then the rule. There are no atomics and no
// barrier, and the order of each sum is that of the ids, so the result does not depend on the number of threads. The summed gradients of
// a step never lie in memory as a whole.
// Answers to FBGEMM's fused backward.  Include cost: none.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/core/squares.hpp>
#include <rookery/kernels/cpu/bag_sum.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/row_ahead.hpp>
#include <rookery/kernels/cpu/row_update.hpp>
#include <rookery/kernels/cpu/transpose.hpp>

namespace rookery::kernels {

/// The update of one shard in a step.
struct FusedUpdate {
  static constexpr std::size_t owners = 64;  // parts of a table, of which each is one thread's

  c10::ScalarType dtype = c10::ScalarType::Undefined;   // of gradients
  std::vector<GradientSource> sources{};
  std::int64_t rows = 0;                     // of the shard, at most 2^32
  double scale = 1;                          // of gradients, before the rule sees them
  RowTask task{};
  std::array<double, owners> squares{};      // of scaled sums, of each owner's rows

  std::int64_t count() const {
    std::int64_t ids = 0;
    for (const auto& source : sources) ids += source.count();
    return ids;
  }
  /// What it takes, in bytes that are read and written, about.
  std::int64_t cost() const { return count() * (task.dim * 4 + 32); }
  /// The squared norm of the sums, once updated.
  double squared_norm() const {
    double sum = 0;
    for (const auto one : squares) sum += one;
    return sum;
  }
};

namespace detail {

/// Sorts numbers by their upper 32 bits, of which `bits` are used; the lower ones rise already. `scratch` is as large.
inline void sort_by_row(std::uint64_t*& keys, std::uint64_t*& scratch, std::size_t count, int bits) {
  if (count <= 24) {
    for (std::size_t i = 1; i < count; ++i) {
      const auto key = keys[i];
      auto at = i;
      for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
      keys[at] = key;
    }
    return;
  }
  const int widest = count < 1024 ? 8 : 11, passes = (bits + widest - 1) / widest;
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = 32 + bits * pass / passes, digit_bits = bits * (pass + 1) / passes - bits * pass / passes;
    std::array<std::uint32_t, 2049> starts;
    const std::uint64_t mask = (std::uint64_t{1} << digit_bits) - 1;
    std::fill_n(starts.begin(), mask + 2, 0U);
    for (std::size_t i = 0; i < count; ++i) ++starts[(keys[i] >> shift & mask) + 1];
    for (std::size_t digit = 1; digit <= mask; ++digit) starts[digit] += starts[digit - 1];
    for (std::size_t i = 0; i < count; ++i) scratch[starts[keys[i] >> shift & mask]++] = keys[i];
    std::swap(keys, scratch);
  }
}

/// What one thread needs for one shard after the other; it grows to the largest.
struct UpdateScratch {
  std::size_t capacity = 0;
  std::unique_ptr<std::uint64_t[]> keys, sorted;
  std::unique_ptr<std::int64_t[]> addresses, numbers, rows, starts;
  std::unique_ptr<double[]> factors, ordered;
  std::vector<std::byte> sums;

  /// So many bytes that begin where a line of the cache does: vectors that lie across two cost twice as much.
  std::byte* lines_for(std::size_t bytes) {
    constexpr std::size_t line = 64;
    sums.resize(bytes + line);
    const auto beyond = reinterpret_cast<std::uintptr_t>(sums.data()) % line;
    return sums.data() + (line - beyond) % line;
  }
  void reserve(std::size_t count) {
    if (count <= capacity) return;
    capacity = count + count / 4;
    for (auto* one : {&keys, &sorted}) *one = std::make_unique_for_overwrite<std::uint64_t[]>(capacity);
    for (auto* one : {&addresses, &numbers, &rows, &starts}) *one = std::make_unique_for_overwrite<std::int64_t[]>(capacity);
    for (auto* one : {&factors, &ordered}) *one = std::make_unique_for_overwrite<double[]>(capacity);
  }
};

/// Calls `fn(row, address, factor)` for each id of a shard, in order: where its gradient lies, and what that is multiplied by.
template <class Fn> [[gnu::always_inline]] inline void for_each_id(const FusedUpdate& update, Fn&& fn) {
  for (const auto& source : update.sources) {
    const auto first = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(source.first));
    std::int64_t i = 0;
    for (std::int64_t bag = 0; bag < source.bags; ++bag) {
      const auto end = source.first_of(bag + 1);
      const auto address = first + bag * source.stride;
      const auto divisor = source.divisors ? source.divisors[bag] : 1;
      const auto whole = divisor == 0 ? 0 : 1 / divisor;
      for (; i < end; ++i) fn(source.ids[i], address, source.weights ? source.weights[i] * whole : whole);
    }
  }
}

/// Whether a row is of a part, by the owner that its number gives it.
inline std::array<std::uint8_t, FusedUpdate::owners> owners_of(std::size_t part, std::size_t parts) {
  std::array<std::uint8_t, FusedUpdate::owners> is_mine;
  for (std::size_t owner = 0; owner < is_mine.size(); ++owner) is_mine[owner] = owner % parts == part;
  return is_mine;
}

/// The rows that a part owns, ascending, and where the gradients of each lie.
struct OwnRows {
  std::span<const std::int64_t> rows;        // [U]
  const std::int64_t* starts;                // [U + 1] into the others
  const std::int64_t* addresses;
  const double* factors;                     // null: 1
};

/// Rows of a shard that are counted rather than sorted, at most.
inline constexpr std::int64_t most_counted = 4096;

/// Finds and orders the rows of a part by counting, where the rows of a shard are few and most of them are named. Returns how many.
inline std::size_t order_few(const FusedUpdate& update, std::size_t part, std::size_t parts, bool has_factors, UpdateScratch& scratch) {
  std::array<std::uint32_t, most_counted> next;
  std::fill_n(next.begin(), update.rows, 0U);
  for (const auto& source : update.sources)
    for (std::int64_t i = 0, end = source.count(); i < end; ++i) ++next[static_cast<std::size_t>(source.ids[i])];
  const auto is_mine = owners_of(part, parts);
  std::size_t distinct = 0;
  std::uint32_t before = 0;
  for (std::int64_t row = 0; row < update.rows; ++row) {
    auto& count = next[static_cast<std::size_t>(row)];
    const std::uint32_t own = is_mine[static_cast<std::size_t>(row) % FusedUpdate::owners] ? count : 0;
    scratch.rows[distinct] = row;
    scratch.starts[distinct] = before;
    distinct += own > 0;
    count = std::exchange(before, before + own);
  }
  scratch.starts[distinct] = before;
  if (parts > 1)                                             // what others own lies behind, one over the other
    for (std::int64_t row = 0; row < update.rows; ++row)
      if (!is_mine[static_cast<std::size_t>(row) % FusedUpdate::owners]) next[static_cast<std::size_t>(row)] = before;
  for_each_id(update, [&](std::int64_t row, std::int64_t address, double factor) __attribute__((always_inline)) {
    const auto to = next[static_cast<std::size_t>(row)]++;
    scratch.numbers[to] = address;
    if (has_factors) scratch.ordered[to] = factor;
  });
  return distinct;
}
/// The same by sorting keys (row, number).
inline std::size_t order_many(const FusedUpdate& update, std::size_t part, std::size_t parts, bool has_factors, UpdateScratch& scratch) {
  auto *keys = scratch.keys.get(), *beside = scratch.sorted.get();
  std::size_t count = 0;                                     // one behind is written and left
  for_each_id(update, [&, is_mine = owners_of(part, parts)](std::int64_t row, std::int64_t address, double factor)
                          __attribute__((always_inline)) {
    keys[count] = static_cast<std::uint64_t>(row) << 32 | count;
    scratch.addresses[count] = address;
    if (has_factors) scratch.factors[count] = factor;
    count += is_mine[static_cast<std::size_t>(row) % FusedUpdate::owners];
  });
  sort_by_row(keys, beside, count, std::bit_width(static_cast<std::uint64_t>(update.rows - 1)));
  std::size_t distinct = 0;
  std::int64_t last = -1;
  for (std::size_t i = 0; i < count; ++i) {                  // what is written for a row that goes on is written over
    const auto row = static_cast<std::int64_t>(keys[i] >> 32);
    const auto number = keys[i] & 0xffffffffU;
    scratch.numbers[i] = scratch.addresses[number];
    if (has_factors) scratch.ordered[i] = scratch.factors[number];
    scratch.rows[distinct] = row;
    scratch.starts[distinct] = static_cast<std::int64_t>(i);
    distinct += row != last;
    last = row;
  }
  scratch.starts[distinct] = static_cast<std::int64_t>(count);
  return distinct;
}

inline OwnRows own_rows(const FusedUpdate& update, std::size_t part, std::size_t parts, UpdateScratch& scratch) {
  const auto total = update.count();
  const bool are_few = update.rows <= most_counted && update.rows <= 2 * total;
  scratch.reserve(static_cast<std::size_t>(std::max(total, are_few ? update.rows : 0)) + 1);
  bool has_factors = false;
  for (const auto& source : update.sources) has_factors = has_factors || source.weights || source.divisors;
  const auto distinct = total == 0 ? 0 : (are_few ? order_few : order_many)(update, part, parts, has_factors, scratch);
  return {std::span(scratch.rows.get(), distinct), scratch.starts.get(), scratch.numbers.get(),
          has_factors ? scratch.ordered.get() : nullptr};
}

/// Rows that are summed and updated together, at most.
inline constexpr std::size_t most_together = 64;

/// Scales sums of some rows [rows, dim]; their squares [rows] are added to the sum of their owner, and kept.
template <class Number>
[[gnu::always_inline]] inline void finish_rows(FusedUpdate& update, std::span<const std::int64_t> rows, Number* sums, double* squares) {
  const auto dim = update.task.dim;
  const auto scale = static_cast<Number>(update.scale);
  for (std::size_t k = 0; k < rows.size(); ++k, sums += dim) {
    squares[k] = scale == 1 ? rookery::detail::squared_norm<Number>(sums, dim) : rookery::detail::scale_and_square(sums, dim, scale);
    update.squares[static_cast<std::size_t>(rows[k]) % FusedUpdate::owners] += squares[k];
  }
}
template <class Number> void finish_rows_plain(FusedUpdate& update, std::span<const std::int64_t> rows, void* sums, double* squares) {
  finish_rows(update, rows, static_cast<Number*>(sums), squares);
}
#if defined(__x86_64__) && defined(__GNUC__)
[[gnu::target("avx2"), gnu::noinline]] inline void finish_rows_avx2(FusedUpdate& update, std::span<const std::int64_t> rows, void* sums,
                                                                   double* squares) {
  finish_rows(update, rows, static_cast<float*>(sums), squares);
}
#endif

/// Asks for rows that will be written, and their state.
inline void ask_for_rows(const RowTask& task, std::span<const std::int64_t> rows) {
  const auto size = static_cast<std::int64_t>(c10::elementSize(task.dtype));
  const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(task.dtype)));
  const auto ask = [](const void* first, std::int64_t offset, std::int64_t bytes) {
    const auto* row = static_cast<const std::byte*>(first) + offset;
    for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 1, 3);
  };
  for (const auto row : rows) {
    ask(task.weights, row * task.stride * size, task.dim * size);
    for (const auto& state : task.state) ask(state.first, row * state.stride * number, state.columns * number);
  }
}

/// One thread's rows of one shard.
inline void update_part(FusedUpdate& update, std::size_t part, std::size_t parts, UpdateScratch& scratch) {
  const auto own = own_rows(update, part, parts, scratch);
  const auto distinct = own.rows.size();
  if (distinct == 0) return;
  const auto dim = update.task.dim;
  const auto row_bytes = dim * static_cast<std::int64_t>(c10::elementSize(compute_dtype(update.dtype)));   // of sums
  const auto together = static_cast<std::size_t>(std::clamp<std::int64_t>(4096 / row_bytes, 2, most_together));   // their sums stay near
  std::array<double, most_together> squares;
  auto* sums = scratch.lines_for(together * static_cast<std::size_t>(row_bytes));
  std::int64_t gradient_bytes = 0;
  for (const auto& source : update.sources) gradient_bytes += source.bags * row_bytes;
  // Those of a table are read again and again, but other rows come between, and they may lie far apart: the second cache has few of them.
  constexpr std::int64_t nearest_cache = 64 * 1024, soon = 4096;
  const auto distance = gradient_bytes <= nearest_cache ? 0 : std::min(prefetch_policy().bytes, soon);
  const RowsAhead gradients{0, 1, dim * static_cast<std::int64_t>(c10::elementSize(update.dtype)), own.addresses,
                            own.addresses + own.starts[distinct]};
  RowAhead ahead(std::span(&gradients, 1), distance);
  auto* const asking = distance == 0 ? nullptr : &ahead;
  const auto block_at = [&](std::size_t u) {
    u = std::min(u, distinct);
    return own.rows.subspan(u, std::min(together, distinct - u));
  };
  const auto sum = sum_bags_of(update.dtype);
  const bool is_double = update.dtype == c10::ScalarType::Double;
  auto* finish = is_double ? &finish_rows_plain<double> : &finish_rows_plain<float>;
#if defined(__x86_64__) && defined(__GNUC__)
  if (!is_double && instruction_set() != InstructionSet::plain) finish = &finish_rows_avx2;
#endif
  const auto rows_ahead = 4 * together;
  ask_for_rows(update.task, own.rows.first(std::min(rows_ahead, distinct)));
  for (std::size_t u = 0; u < distinct; u += together) {
    const auto block = block_at(u), next = block_at(u + rows_ahead);
    const auto ask = [&](std::size_t third) {                  // a core has few lines under way at a time
      const auto begin = next.size() * third / 3, end = next.size() * (third + 1) / 3;
      ask_for_rows(update.task, next.subspan(begin, end - begin));
    };
    ask(0);
    LookupTask task{.dtype = update.dtype};
    task.dim = dim;
    task.ids = own.addresses + own.starts[u];
    task.offsets = own.starts + u;
    task.sample_weights = own.factors ? own.factors + own.starts[u] : nullptr;
    task.bags = static_cast<std::int64_t>(block.size());
    sum(task, 0, task.bags, sums, dim, asking);
    ask(1);
    finish(update, block, sums, squares.data());
    ask(2);
    update.task.update(update.task, block, sums, update.task.sums_squares ? squares.data() : nullptr);
  }
}

/// Who updates what: whole shards of one thread each, and shards whose rows all threads share.
struct UpdateShares {
  std::vector<std::vector<FusedUpdate*>> whole;              // [threads]
  std::vector<FusedUpdate*> shared;
};

/// Threads take whole shards where that leaves none of them idle for long: each then goes through the ids of its own shards alone.
inline UpdateShares share_out(std::span<FusedUpdate* const> updates, std::size_t threads) {
  std::vector<std::pair<std::int64_t, FusedUpdate*>> falling;
  for (auto* one : updates)
    if (!one->sources.empty()) falling.emplace_back(one->cost(), one);
  std::stable_sort(falling.begin(), falling.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::int64_t total = 0;
  for (const auto& one : falling) total += one.first;
  const auto idle = total / (10 * static_cast<std::int64_t>(threads));   // a tenth of a thread's time, at most
  UpdateShares shares;
  for (std::size_t shared = 0;; ++shared) {                  // the largest
    shares.whole.assign(threads, {});
    std::vector<std::int64_t> loads(threads);
    for (auto i = shared; i < falling.size(); ++i) {
      const auto least = static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
      shares.whole[least].push_back(falling[i].second);
      loads[least] += falling[i].first;
    }
    const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
    if (*most - *least > idle) continue;
    for (std::size_t i = 0; i < shared; ++i) shares.shared.push_back(falling[i].second);
    return shares;
  }
}

}  // namespace detail

/// Sums the gradients of each distinct row of every shard, and updates it; leaves the sums' squared norms. One parallel region.
inline void update(std::span<FusedUpdate* const> updates) {
  std::int64_t bytes = 0;
  for (const auto* one : updates) bytes += one->cost();
  constexpr std::int64_t worth_a_region = 128 * 1024;
  const auto parts = bytes < worth_a_region ? 1 : std::min<std::int64_t>(threads_here(), FusedUpdate::owners);
  if (parts == 1) {
    detail::UpdateScratch scratch;
    for (auto* one : updates) detail::update_part(*one, 0, 1, scratch);
    return;
  }
  const auto shares = detail::share_out(updates, static_cast<std::size_t>(parts));
  parallel(parts, 1, [&](std::int64_t begin, std::int64_t end) {
    detail::UpdateScratch scratch;
    for (auto part = static_cast<std::size_t>(begin); part < static_cast<std::size_t>(end); ++part) {
      for (auto* one : shares.shared) detail::update_part(*one, part, static_cast<std::size_t>(parts), scratch);
      for (auto* one : shares.whole[part]) detail::update_part(*one, 0, 1, scratch);
    }
  });
}

}  // namespace rookery::kernels
