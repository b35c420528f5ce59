// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/train/batches.hpp>

#include <ATen/ops/arange.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

struct Numbers {
  at::Tensor values;                                         // [B]
  std::int64_t size() const { return values.size(0); }
  static constexpr auto members() { return rookery::members("values", &Numbers::values); }
};

/// `count` batches of 1, 2, 3, .. rows.
struct Counted {
  std::int64_t count = 0, given = 0;
  std::optional<Numbers> next() {
    if (given == count) return {};
    return Numbers{at::arange(++given, at::kFloat)};
  }
};

using Rows = std::vector<std::int64_t>;

/// Rows of the batches that each rank sees when rank r has `counts[r]`.
std::vector<Rows> seen(const std::vector<std::int64_t>& counts, RunOut run_out, std::optional<Numbers> empty = {}) {
  std::vector<Rows> rows(counts.size());
  Threads::run(
      static_cast<int>(counts.size()),
      [&](Threads topology) {
        const auto rank = static_cast<std::size_t>(topology.rank());
        for (auto& batch : batches(topology, Counted{counts[rank]}, run_out, empty)) rows[rank].push_back(batch.size());
      },
      {.timeout = std::chrono::seconds(20)});
  return rows;
}

}  // namespace

TEST_SUITE("train/batches") {
  TEST_CASE("F13 unequal numbers of batches: all ranks stop together") {
    CHECK(seen({3, 2, 5}, RunOut::stop) == std::vector<Rows>(3, Rows{1, 2}));
    CHECK(seen({2, 2}, RunOut::stop) == std::vector<Rows>(2, Rows{1, 2}));
    CHECK(seen({0, 4}, RunOut::stop) == std::vector<Rows>(2));
  }

  TEST_CASE("F13 unequal numbers of batches: ranks that ran out go on with batches without rows") {
    CHECK(seen({3, 1, 2}, RunOut::drain) == std::vector<Rows>{{1, 2, 3}, {1, 0, 0}, {1, 2, 0}});
    CHECK(seen({0, 2}, RunOut::drain, Numbers{at::arange(0, at::kFloat)}) == std::vector<Rows>{{0, 0}, {1, 2}});
    CHECK(seen({0, 0}, RunOut::drain) == std::vector<Rows>(2));
    CHECK_THROWS_WITH_AS(seen({0, 2}, RunOut::drain),
                         doctest::Contains("rank 0 never had a batch, so it cannot go on with empty ones; give batches() one without rows"),
                         ConfigError);
  }

  TEST_CASE("on one process it is the source itself") {
    Local topology;
    Rows rows;
    auto all = batches(topology, Counted{3}, RunOut::drain);
    while (const auto batch = all.next()) rows.push_back(batch->size());
    CHECK(rows == Rows{1, 2, 3});
    CHECK(!all.next());
  }
}

}  // namespace rookery
