// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The order of an epoch's rows.

#include <rookery/data/shuffle.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "support/test.hpp"

using namespace rookery;

namespace {

std::vector<std::int64_t> order_of(std::int64_t rows, std::uint64_t seed, std::uint64_t epoch, std::int64_t window) {
  ShuffledRows shuffled(rows, seed, epoch, window);
  std::vector<std::int64_t> order(static_cast<std::size_t>(rows));
  std::ranges::generate(order, [&] { return shuffled.next(); });
  return order;
}

std::vector<std::int64_t> count_up(std::int64_t rows) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return order;
}

}  // namespace

TEST_SUITE("data/shuffle") {
  TEST_CASE("law: every row comes once, whatever the window") {
    for (const std::int64_t rows : {0, 1, 2, 7, 100, 1000})
      for (const std::int64_t window : {1, 2, 7, 8, 64, 99, 1000, 5000}) {
        auto order = order_of(rows, 3, 1, window);
        std::ranges::sort(order);
        CHECK(order == count_up(rows));
      }
  }

  TEST_CASE("the order is that of seed and epoch: the same again, another for another") {
    CHECK(order_of(100, 7, 0, 100) == order_of(100, 7, 0, 100));
    CHECK(order_of(100, 7, 0, 100) == order_of(100, 7, 0, 200));
    CHECK(order_of(100, 7, 0, 100) != order_of(100, 7, 1, 100));
    CHECK(order_of(100, 7, 0, 100) != order_of(100, 8, 0, 100));
    CHECK(order_of(100, 7, 0, 10) == order_of(100, 7, 0, 10));
    CHECK(order_of(8, 7, 0, 8) == std::vector<std::int64_t>{2, 0, 5, 4, 1, 7, 6, 3});  // the same on every machine
  }

  TEST_CASE("all orders of few rows are equally likely") {
    std::vector<int> seen(6);
    for (std::uint64_t epoch = 0; epoch < 6000; ++epoch) {
      const auto order = order_of(3, 1, epoch, 3);
      ++seen[static_cast<std::size_t>(order[0] * 2 + (order[1] > order[2]))];
    }
    for (const int count : seen) CHECK(std::abs(count - 1000) < 5 * 29);  // 5 standard deviations
  }

  TEST_CASE("with a window rows come in blocks of neighbours, shuffled within the window only") {
    const std::int64_t rows = 4096, window = 256, block = window / 8;
    const auto order = order_of(rows, 5, 2, window);
    for (std::int64_t first = 0; first < rows; first += window) {
      std::vector<std::int64_t> blocks;
      for (std::int64_t i = 0; i < window; ++i) blocks.push_back(order[static_cast<std::size_t>(first + i)] / block);
      std::ranges::sort(blocks);
      CHECK(std::ranges::unique(blocks).begin() - blocks.begin() == 8);  // eight whole blocks make a window
    }
    CHECK(!std::ranges::is_sorted(order.begin(), order.begin() + window));
  }
}
