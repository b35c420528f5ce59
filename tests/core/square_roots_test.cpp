// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/square_roots.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

template <class Number> void check_roots() {
  cases::Draw draw(1);
  for (std::int64_t count = 0; count <= 20; ++count) {
    CAPTURE(count);
    std::vector<Number> numbers(1), roots(static_cast<std::size_t>(count) + 1, Number{7});
    for (std::int64_t i = 0; i < count; ++i) numbers.push_back(static_cast<Number>(std::pow(10, draw.real(-30, 30))));
    detail::square_roots(numbers.data() + 1, count, roots.data());                           // unaligned
    for (std::size_t i = 0; i < roots.size() - 1; ++i) CHECK(roots[i] == std::sqrt(numbers[i + 1]));
    CHECK(roots.back() == 7);
  }
}

}  // namespace

TEST_SUITE("core/square_roots") {
  TEST_CASE("roots of any length are std::sqrt's to the bit, and nothing behind them is written") {
    check_roots<float>();
    check_roots<double>();
  }

  TEST_CASE("zeros keep their sign, infinity stays, and what has no root gives NaN") {
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> numbers{0.F, -0.F, infinity, -1.F, std::numeric_limits<float>::quiet_NaN(), -infinity};
    std::vector<float> roots(6);
    detail::square_roots(numbers.data(), 6, roots.data());
    CHECK((roots[0] == 0 && !std::signbit(roots[0]) && roots[1] == 0 && std::signbit(roots[1]) && roots[2] == infinity));
    CHECK((std::isnan(roots[3]) && std::isnan(roots[4]) && std::isnan(roots[5])));
  }
}

}  // namespace rookery
