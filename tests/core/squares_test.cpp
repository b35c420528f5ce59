// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/squares.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using detail::scale_and_square;
using detail::squared_norm;

template <class Number> std::vector<Number> draw_numbers(std::int64_t count, double size) {
  cases::Draw draw(static_cast<std::uint64_t>(count));
  std::vector<Number> numbers;
  for (std::int64_t i = 0; i < count; ++i) numbers.push_back(static_cast<Number>(size * draw.real(-1, 1)));
  return numbers;
}
template <class Number> double expected(const std::vector<Number>& numbers) {
  double sum = 0;
  for (const auto number : numbers) sum += static_cast<double>(number) * static_cast<double>(number);
  return sum;
}
template <class Number> std::int64_t count_of(const std::vector<Number>& numbers) { return static_cast<std::int64_t>(numbers.size()); }

/// Relative; float32 sums of at most 70 squares.
template <class Number> constexpr double allowed = sizeof(Number) == 4 ? 2e-6 : 1e-14;

template <class Number> void check_lengths(double size) {
  for (std::int64_t count = 0; count <= 70; ++count) {
    CAPTURE(count);
    const auto numbers = draw_numbers<Number>(count, size);
    const auto whole = expected(numbers);
    CHECK(std::abs(squared_norm<Number>(numbers.data(), count) - whole) <= allowed<Number> * whole);
    CHECK(std::abs(squared_norm<double>(numbers.data(), count) - whole) <= allowed<double> * whole);
    auto scaled = numbers;
    const auto squares = scale_and_square(scaled.data(), count, Number{3});
    std::vector<Number> by_hand;
    for (const auto number : numbers) by_hand.push_back(number * Number{3});
    CHECK(scaled == by_hand);
    CHECK(std::abs(squares - expected(by_hand)) <= allowed<Number> * expected(by_hand));
  }
}

template <class Number> void check_one_that_is_not_finite(Number odd, bool is_nan) {
  for (const std::int64_t count : {1, 7, 8, 9, 31, 32, 33, 70})
    for (std::int64_t place = 0; place < count; ++place) {
      auto numbers = draw_numbers<Number>(count, 1);
      numbers[static_cast<std::size_t>(place)] = odd;
      const auto norm = squared_norm<Number>(numbers.data(), count), scaled = scale_and_square(numbers.data(), count, Number{2});
      CHECK((is_nan ? std::isnan(norm) : std::isinf(norm)));
      CHECK((is_nan ? std::isnan(scaled) : std::isinf(scaled)));
    }
}

}  // namespace

TEST_SUITE("core/squares") {
  TEST_CASE("sums of squares of any length are those of float64, of large and small numbers too") {
    for (const double size : {1.0, 1e-25, 1e25, 1e-15, 1e15}) {
      CAPTURE(size);
      check_lengths<float>(size);
      check_lengths<double>(size);
    }
  }

  TEST_CASE("a small part beside a large one, and numbers whose squares float32 does not hold") {
    const std::vector<float> mixed{1e25F, 1e-25F, -1e25F};
    CHECK(squared_norm<float>(mixed.data(), 3) == expected(mixed));
    const std::vector<float> largest(33, std::numeric_limits<float>::max());
    CHECK(squared_norm<float>(largest.data(), 33) == expected(largest));
    const std::vector<float> smallest(33, std::numeric_limits<float>::denorm_min());
    CHECK(squared_norm<float>(smallest.data(), 33) == expected(smallest));
    const std::vector<float> zeros(40);
    CHECK(squared_norm<float>(zeros.data(), 40) == 0);
  }

  TEST_CASE("a sum with a number that is not finite is not finite, wherever it lies") {
    check_one_that_is_not_finite(std::numeric_limits<float>::infinity(), false);
    check_one_that_is_not_finite(-std::numeric_limits<double>::infinity(), false);
    check_one_that_is_not_finite(std::numeric_limits<float>::quiet_NaN(), true);
    check_one_that_is_not_finite(std::numeric_limits<double>::quiet_NaN(), true);
  }

  TEST_CASE("numbers need not be aligned") {
    const auto numbers = draw_numbers<float>(71, 1);
    const std::vector<float> rest(numbers.begin() + 1, numbers.end());
    CHECK(squared_norm<float>(numbers.data() + 1, 70) == squared_norm<float>(rest.data(), count_of(rest)));
  }
}

}  // namespace rookery
