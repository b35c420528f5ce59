// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Batches built ahead on a thread.

#include <rookery/data/batches.hpp>
#include <rookery/data/prefetch.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/test.hpp"

using namespace rookery;

namespace {

/// Counts to `last`; throws instead of giving `bad`.
struct Count {
  int last = 0, bad = -1, at = 0;
  std::atomic<int>* built = nullptr;

  std::optional<std::unique_ptr<int>> next() {
    if (at == bad) throw DataError("x.csv:3: bad");
    if (built) ++*built;
    if (at == last) return {};
    return std::make_unique<int>(at++);
  }
};

}  // namespace

TEST_SUITE("data/prefetch") {
  TEST_CASE("gives the source's batches in the source's order, for any depth") {
    for (const int depth : {1, 2, 10, 1000}) {
      std::vector<int> seen;
      for (std::unique_ptr<int>& batch : prefetch(Count{.last = 100}, depth)) seen.push_back(*std::move(batch));
      CHECK(seen.size() == 100);
      for (int i = 0; i < 100; ++i) CHECK(seen[static_cast<std::size_t>(i)] == i);
    }
    for (auto& batch : prefetch(Count{.last = 0})) CHECK(*batch < 0);
  }

  TEST_CASE("what the source throws arrives after the batches before it, and ends the range") {
    auto batches = prefetch(Count{.last = 10, .bad = 3}, 2);
    for (int i = 0; i < 3; ++i) CHECK(**batches.next() == i);
    CHECK_THROWS_WITH_AS(batches.next(), "x.csv:3: bad", DataError);
    CHECK(!batches.next());
  }

  TEST_CASE("builds no more than depth batches ahead") {
    std::atomic<int> built = 0;
    auto batches = prefetch(Count{.last = 1000, .built = &built}, 3);
    for (int i = 0; i < 5; ++i) batches.next();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(built <= 5 + 3 + 1);
  }

  TEST_CASE("a loop that is left early ends the thread") {
    for (int round = 0; round < 200; ++round) {
      for (auto& batch : prefetch(Count{.last = 1000}, 1))
        if (*batch == round % 3) break;
      prefetch(Count{.last = 5});
      prefetch(Count{.last = 5, .bad = 0});
    }
  }

  TEST_CASE("a depth below 1 is refused") {
    CHECK_THROWS_WITH_AS(prefetch(Count{}, 0), "prefetch: depth 0 must be at least 1", ConfigError);
  }
}
