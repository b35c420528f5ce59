// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/error.hpp>

#include <rookery/core/clock.hpp>
#include <rookery/core/dtype.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("core/error") {
  TEST_CASE("concat joins text, numbers in their shortest exact form, and ranges") {
    CHECK(concat() == "");
    CHECK(concat("a", std::string("b"), std::string_view("c"), 'd') == "abcd");
    CHECK(concat(0, " ", -7, " ", 1'000'000'000'000LL, " ", true, " ", false) == "0 -7 1000000000000 true false");
    CHECK(concat(std::numeric_limits<std::int64_t>::min(), " ", std::numeric_limits<std::uint64_t>::max()) ==
          "-9223372036854775808 18446744073709551615");
    CHECK(concat(0.1, " ", 1e-9, " ", 3.0, " ", .1F) == "0.1 1e-09 3 0.1");
    CHECK(concat(std::numeric_limits<double>::quiet_NaN(), " ", -std::numeric_limits<double>::infinity()) == "nan -inf");
    CHECK(std::stod(concat(1.0 / 3)) == 1.0 / 3);
    CHECK(concat(std::vector<std::int64_t>{2, 3}, std::array<double, 1>{.5}, std::vector<int>{}) == "[2, 3][0.5][]");
    CHECK(concat(std::vector<std::string>{"f1", "f2"}, std::set<char>{'x'}) == "[f1, f2][x]");
    const std::vector<std::vector<int>> nested{{1}, {}, {2, 3}};
    CHECK(concat(std::span(nested)) == "[[1], [], [2, 3]]");
  }
  TEST_CASE("check throws the kind asked for with its sentence, and only when it does not hold") {
    CHECK_NOTHROW(check<ShapeError>(true, "never"));
    CHECK_THROWS_WITH_AS(check<ShapeError>(1 > 2, "lengths has ", 5, " entries; keys (", 2, ")"), "lengths has 5 entries; keys (2)",
                         ShapeError);
    CHECK_THROWS_WITH_AS(fail<PlanError>("no rank ", 7), "no rank 7", PlanError);
  }
  TEST_CASE_TEMPLATE("every kind is an Error, and no other kind", Kind, ShapeError, IndexError, ConfigError, DataError, PlanError,
                     NonFiniteError, CommunicationError) {
    CHECK_THROWS_AS(fail<Kind>("x"), Error);
    CHECK_THROWS_AS(fail<Kind>("x"), std::runtime_error);
    CHECK(std::is_same_v<Kind, ShapeError> == std::is_base_of_v<ShapeError, Kind>);
    CHECK(std::is_same_v<Kind, CommunicationError> == std::is_base_of_v<CommunicationError, Kind>);
  }
}

TEST_SUITE("core/clock") {
  TEST_CASE("a stopwatch counts up and starts again") {
    Stopwatch watch;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const double first = watch.seconds();
    CHECK(first >= .02);
    CHECK(watch.seconds() >= first);
    watch.restart();
    CHECK(watch.seconds() < first);
  }
}

TEST_SUITE("core/dtype") {
  TEST_CASE("for_floating gives the C++ type, and refuses what cannot train") {
    CHECK(for_floating(at::kFloat, [](auto zero) { return sizeof zero; }) == 4);
    CHECK(for_floating(at::kDouble, [](auto zero) { return sizeof zero; }) == 8);
    CHECK(for_floating(at::kDouble, [](auto zero) { return zero == 0; }));
    CHECK_THROWS_WITH_AS(for_floating(at::kHalf, [](auto) {}), "dtype Half cannot train here; use float32 or float64", ConfigError);
    CHECK_THROWS_AS(for_floating(at::kLong, [](auto) {}), ConfigError);
  }
}

}  // namespace rookery
