// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the machine itself can do on the ids of a workload: rows gathered in their order, distinct rows read, changed and written, memory
// read in order. The rows are those of the tables that are measured beside it, because pages differ: on a shared machine the same walk may
// take half as long again through other memory. Each thread goes through its part of the ids, and the prefetch that is best here is taken.

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <unordered_set>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/parallel.hpp>

namespace rookery::benchmarks {

/// float32 numbers in huge pages, touched.
class HugePages {
 public:
  explicit HugePages(std::int64_t numbers) : numbers_(numbers) {
    constexpr std::size_t page = std::size_t{2} << 20;
    const auto bytes = (static_cast<std::size_t>(numbers) * sizeof(float) + page - 1) / page * page;
    memory_.reset(static_cast<float*>(std::aligned_alloc(page, bytes)));
    check<Error>(memory_ != nullptr, "no memory for ", bytes, " bytes");
    madvise(memory_.get(), bytes, MADV_HUGEPAGE);
    parallel(numbers, 1 << 20, [&](std::int64_t begin, std::int64_t end) { std::fill(data() + begin, data() + end, .01F); });
  }
  float* data() const { return memory_.get(); }
  std::int64_t size() const { return numbers_; }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
  std::int64_t numbers_;
};

/// How rows are asked for ahead of their use.
enum class Ahead { none, t0, t1, t2, write };
inline constexpr const char* ahead_names[] = {"none", "T0", "T1", "T2", "W"};

namespace detail {

using Sixteen [[gnu::vector_size(64), gnu::aligned(4), gnu::may_alias]] = float;

template <Ahead ahead, int D> [[gnu::always_inline]] inline void prefetch_row(const float* row) {
  if constexpr (ahead == Ahead::none) return;
  constexpr int locality = ahead == Ahead::t1 ? 2 : ahead == Ahead::t2 ? 1 : 3;
#pragma GCC unroll 8
  for (int i = 0; i < D; i += 16) __builtin_prefetch(row + i, ahead == Ahead::write, locality);
}

/// Rows [begin, end) of a list of `all`, by one thread; row i begins `rows[i]` numbers after `table`.
struct Part {
  float* table;
  const std::int64_t* rows;
  std::int64_t begin, end, all, distance;
};

#define ROOKERY_LIMIT_BODIES(name, ...)                                                                    \
  template <Ahead ahead, int D> [[__VA_ARGS__]] float gather_##name(Part part) {                           \
    Sixteen sums[D / 16] = {};                                                                             \
    for (auto i = part.begin; i < part.end; ++i) {                                                         \
      prefetch_row<ahead, D>(part.table + part.rows[std::min(i + part.distance, part.all - 1)]);           \
      const auto* row = reinterpret_cast<const Sixteen*>(part.table + part.rows[i]);                       \
      _Pragma("GCC unroll 8") for (int j = 0; j < D / 16; ++j) sums[j] += row[j];                          \
    }                                                                                                      \
    for (int j = 1; j < D / 16; ++j) sums[0] += sums[j];                                                   \
    return sums[0][0];                                                                                     \
  }                                                                                                        \
  template <Ahead ahead, int D> [[__VA_ARGS__]] float change_##name(Part part) {                           \
    const Sixteen step = Sixteen{} + 1e-9F;                                                                \
    for (auto i = part.begin; i < part.end; ++i) {                                                         \
      prefetch_row<ahead, D>(part.table + part.rows[std::min(i + part.distance, part.all - 1)]);           \
      auto* row = reinterpret_cast<Sixteen*>(part.table + part.rows[i]);                                   \
      _Pragma("GCC unroll 8") for (int j = 0; j < D / 16; ++j) row[j] += step;                             \
    }                                                                                                      \
    return 0;                                                                                              \
  }
ROOKERY_LIMIT_BODIES(wide, gnu::target("avx512f"), gnu::noinline)
ROOKERY_LIMIT_BODIES(half, gnu::target("avx2"), gnu::noinline)
#undef ROOKERY_LIMIT_BODIES

using Walk = float (*)(Part);

template <Ahead ahead, int D> Walk walk_of(bool changes) {
  const bool wide = __builtin_cpu_supports("avx512f");
  if (changes) return wide ? &change_wide<ahead, D> : &change_half<ahead, D>;
  return wide ? &gather_wide<ahead, D> : &gather_half<ahead, D>;
}
template <int D> Walk walk_of(Ahead ahead, bool changes) {
  switch (ahead) {
    case Ahead::none: return walk_of<Ahead::none, D>(changes);
    case Ahead::t0: return walk_of<Ahead::t0, D>(changes);
    case Ahead::t1: return walk_of<Ahead::t1, D>(changes);
    case Ahead::t2: return walk_of<Ahead::t2, D>(changes);
    case Ahead::write: return walk_of<Ahead::write, D>(changes);
  }
  return nullptr;
}

}  // namespace detail

/// How a list of rows is gone through.
struct Walking {
  Ahead ahead = Ahead::none;
  std::int64_t distance = 0;             // rows
};

/// Goes once through rows of D = 16 or 128 columns, which begin `rows[i]` numbers after `table`, at lines of the cache: sums them, or
/// changes each.
inline void walk(float* table, const std::vector<std::int64_t>& rows, std::int64_t dim, bool changes, Walking how) {
  check<ConfigError>(dim == 16 || dim == 128, "limits are known for 16 and 128 columns, not ", dim);
  const auto one = dim == 16 ? detail::walk_of<16>(how.ahead, changes) : detail::walk_of<128>(how.ahead, changes);
  const auto count = static_cast<std::int64_t>(rows.size());
  parallel(count, 64, [&](std::int64_t begin, std::int64_t end) {
    volatile float sink = one({table, rows.data(), begin, end, count, how.distance});
    static_cast<void>(sink);
  });
}

/// The fastest way, of three goes each.
inline Walking best_walking(float* table, const std::vector<std::vector<std::int64_t>>& rows, std::int64_t dim, bool changes) {
  Walking best;
  double least = 1e300;
  for (const auto ahead : {Ahead::none, Ahead::t0, Ahead::t1, Ahead::t2, Ahead::write})
    for (const std::int64_t distance : {4, 8, 16, 32, 64, 128}) {
      if ((ahead == Ahead::write && !changes) || (ahead == Ahead::none && distance > 4)) continue;
      for (std::size_t turn = 0; turn < 4; ++turn) {
        const Stopwatch clock;
        walk(table, rows[turn % rows.size()], dim, changes, {ahead, distance});
        if (turn > 0 && clock.seconds() < least) least = clock.seconds(), best = {ahead, distance};
      }
    }
  return best;
}

/// Where the rows of a table lie: row r begins r * stride numbers after `first`.
struct TableRows {
  float* first;
  std::int64_t stride;
};

/// Where the rows of each batch lie, in numbers after the first table: of every id, or of each distinct row once, in the order of first ids
/// or by table and row.
struct WalkedRows {
  std::vector<std::vector<std::int64_t>> of_ids, distinct, ascending;

  WalkedRows(const std::vector<std::vector<std::int64_t>>& ids, const std::vector<TableRows>& tables,
             const std::vector<std::int64_t>& pooling, std::int64_t batch) {
    for (const auto& one : ids) {
      std::vector<std::int64_t> all, once, sorted;
      std::size_t i = 0;
      for (std::size_t t = 0; t < tables.size(); ++t) {
        const auto place = [&](std::int64_t row) { return tables[t].first - tables[0].first + row * tables[t].stride; };
        std::vector<std::int64_t> seen;
        std::unordered_set<std::int64_t> known;
        for (std::int64_t n = 0; n < batch * pooling[t]; ++n) {
          const auto row = one[i++];
          all.push_back(place(row));
          if (!known.insert(row).second) continue;
          once.push_back(place(row));
          seen.push_back(row);
        }
        std::sort(seen.begin(), seen.end());
        for (const auto row : seen) sorted.push_back(place(row));
      }
      of_ids.push_back(std::move(all));
      distinct.push_back(std::move(once));
      ascending.push_back(std::move(sorted));
    }
  }
};

/// GB/s of reading memory in order.
inline double stream_speed(const HugePages& table) {
  const auto rows = table.size() / 128;
  std::vector<std::int64_t> in_order;
  for (std::int64_t row = 0; row < rows; ++row) in_order.push_back(row * 128);
  double least = 1e300;
  for (int turn = 0; turn < 6; ++turn) {
    const Stopwatch clock;
    walk(table.data(), in_order, 128, false, turn % 2 == 0 ? Walking{} : Walking{Ahead::t2, 32});
    least = std::min(least, clock.seconds());
  }
  return static_cast<double>(rows) * 512 / least / 1e9;
}

}  // namespace rookery::benchmarks
