// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

template <class Number>
std::vector<Number> drawn(const Initial& initial, std::uint64_t key, std::int64_t first, std::int64_t count, double bound = 1) {
  std::vector<Number> values(static_cast<std::size_t>(count));
  fill_initial(initial, bound, key, first, values.data(), count);
  return values;
}

double moment(const std::vector<double>& values, int power) {
  double sum = 0;
  for (const double value : values) sum += std::pow(value, power);
  return sum / static_cast<double>(values.size());
}
/// Correlation of each value with the one `lag` later, or with another stream.
double correlation(const std::vector<double>& a, const std::vector<double>& b, std::size_t lag = 0) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i + lag < a.size(); ++i) ab += a[i] * b[i + lag], aa += a[i] * a[i], bb += b[i + lag] * b[i + lag];
  return ab / std::sqrt(aa * bb);
}

constexpr std::int64_t many = 200'000;

}  // namespace

TEST_SUITE("core/random") {
  TEST_CASE("the values of a table do not depend on how it is split") {
    constexpr std::int64_t rows = 37, columns = 13;
    const auto key = random_key(7, "user.embedding_bags.user_id.weight");
    for (const Initial& initial : {Initial{Uniform{}}, Initial{Uniform{.min = -1, .max = 3}}, Initial{Normal{.02}}, Initial{Zeros{}}}) {
      const auto whole = drawn<double>(initial, key, 0, rows * columns);
      for (const std::int64_t piece : {1, 2, 3, 5, 12, 100, 480})
        for (std::int64_t first = 0; first < rows * columns; first += piece) {
          const auto count = std::min(piece, rows * columns - first);
          const auto part = drawn<double>(initial, key, first, count);
          REQUIRE(std::equal(part.begin(), part.end(), whole.begin() + first));
        }
      const auto single = drawn<float>(initial, key, 0, rows * columns);
      for (std::size_t i = 0; i < whole.size(); ++i) REQUIRE(single[i] == static_cast<float>(whole[i]));
    }
  }
  TEST_CASE("elements beyond 2^32 have values of their own") {
    const auto far = drawn<double>(Uniform{}, 1, (std::int64_t{1} << 33) + 5, 100), near = drawn<double>(Uniform{}, 1, 5, 100);
    for (std::size_t i = 0; i < far.size(); ++i) CHECK(far[i] != near[i]);
  }
  TEST_CASE("the same seed and name give the same values in every run and on every machine") {
    double draws[2];
    detail::uniform_pair(0, 0, draws);  // the known answer of Philox4x32-10 for key 0, counter 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8
    CHECK(draws[0] == (static_cast<double>(0x6627e8d5e169c58dULL >> 11) + .5) * 0x1p-53);
    CHECK(draws[1] == (static_cast<double>(0xbc57ac4c9b00dbd8ULL >> 11) + .5) * 0x1p-53);
    const auto uniform = drawn<double>(Uniform{}, random_key(7, "over.layers.0.weight"), 0, 3);
    const auto normal = drawn<double>(Normal{}, random_key(7, "over.layers.0.weight"), 0, 3);
    CHECK(concat(uniform) == "[-0.6952660253042401, 0.6429606067042335, 0.36720343461114613]");
    CHECK(normal[0] == doctest::Approx(0.8422271797778352).epsilon(1e-14));
    CHECK(normal[1] == doctest::Approx(-1.7474495508990953).epsilon(1e-14));
    CHECK(normal[2] == doctest::Approx(0.8678364448987332).epsilon(1e-14));
  }
  TEST_CASE("seeds and names have keys of their own") {
    std::set<std::uint64_t> keys;
    const std::vector<std::string> names{"", "a", "b", "c", "aa", "ab", "ba", "user.weight", "item.weight", "item.weighu"};
    for (std::uint64_t seed = 0; seed < 1000; ++seed)
      for (const auto& name : names) keys.insert(random_key(seed, name));
    CHECK(keys.size() == 1000 * names.size());
  }
  TEST_CASE("streams of neighbouring seeds and names are not correlated") {
    const auto base = drawn<double>(Uniform{}, random_key(0, "a"), 0, many);
    for (const auto key : {random_key(1, "a"), random_key(0, "b"), random_key(2, "a")})
      CHECK(std::abs(correlation(base, drawn<double>(Uniform{}, key, 0, many))) < .01);
    for (const std::size_t lag : {1, 2, 3, 64}) CHECK(std::abs(correlation(base, base, lag)) < .01);
  }
  TEST_CASE("Uniform is even on +-bound; a bound of 0 takes the owner's") {
    const auto values = drawn<double>(Uniform{.25}, 3, 0, many, 99);
    CHECK(*std::max_element(values.begin(), values.end()) <= .25);
    CHECK(*std::min_element(values.begin(), values.end()) >= -.25);
    CHECK(*std::max_element(values.begin(), values.end()) > .2499);
    CHECK(*std::min_element(values.begin(), values.end()) < -.2499);
    CHECK(std::abs(moment(values, 1)) < .002);
    CHECK(moment(values, 2) == doctest::Approx(.0625 / 3).epsilon(.01));
    CHECK(moment(values, 4) == doctest::Approx(.0625 * .0625 / 5).epsilon(.02));
    std::vector<int> bins(10);
    for (const double value : values) ++bins[static_cast<std::size_t>(std::min(9.0, (value + .25) * 20))];
    for (const int bin : bins) CHECK(std::abs(bin - many / 10) < 700);  // 5 standard deviations
    const auto by_owner = drawn<double>(Uniform{}, 3, 0, 10, .25);
    CHECK(std::equal(by_owner.begin(), by_owner.end(), values.begin()));
  }
  TEST_CASE("Normal has the moments and tails of a Gaussian") {
    auto values = drawn<double>(Normal{.5}, 4, 0, many);
    CHECK(std::abs(moment(values, 1)) < .006);
    CHECK(moment(values, 2) == doctest::Approx(.25).epsilon(.02));
    CHECK(std::abs(moment(values, 3)) < .01);
    CHECK(moment(values, 4) == doctest::Approx(3 * .0625).epsilon(.05));
    CHECK(std::abs(correlation(values, values, 1)) < .01);
    std::sort(values.begin(), values.end());
    CHECK(values[many / 2] == doctest::Approx(0).epsilon(.01));
    CHECK(values[static_cast<std::size_t>(many * .97725)] == doctest::Approx(1).epsilon(.03));  // two deviations
    CHECK(values.back() < .5 * 6);
  }
  TEST_CASE("Zeros are zeros, and so is a deviation of 0") {
    for (const double value : drawn<double>(Zeros{}, 5, 0, 9)) CHECK(value == 0);
    for (const double value : drawn<double>(Normal{0}, 5, 0, 9)) CHECK(value == 0);
  }
  TEST_CASE("numbers that are no law's are refused, each in one sentence") {
    const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    const auto refuse = [](const Initial& initial, const char* sentence) {
      CHECK_THROWS_WITH_AS(check_initial(initial, "t"), sentence, ConfigError);
      CHECK_THROWS_AS(drawn<float>(initial, 1, 0, 1), ConfigError);
    };
    refuse(Uniform{-.5}, "t: Uniform has bound -0.5; it must be finite and not negative");
    refuse(Uniform{nan}, "t: Uniform has bound nan; it must be finite and not negative");
    refuse(Uniform{.min = 1, .max = -1}, "t: Uniform has min 1 and max -1; they must be finite and ascend");
    refuse(Uniform{.min = 0, .max = inf}, "t: Uniform has min 0 and max inf; they must be finite and ascend");
    refuse(Uniform{.bound = 1, .max = 1}, "t: Uniform has bound 1 and min 0 and max 1; give the bound or the other two");
    refuse(Normal{-2}, "t: Normal has stddev -2; it must be finite and not negative");
    refuse(Normal{inf}, "t: Normal has stddev inf; it must be finite and not negative");
    refuse(Constant{nan}, "t: Constant has value nan; it must be finite");
    refuse(OwnLaw{"nothing", nullptr}, "t: OwnLaw 'nothing' needs a name and a function");
    refuse(OwnLaw{"", [](std::uint64_t, std::int64_t) { return 0.; }}, "t: OwnLaw '' needs a name and a function");
    const OwnLaw inverse{"inverse", [](std::uint64_t, std::int64_t element) { return 1. / static_cast<double>(element - 3); }};
    CHECK_NOTHROW(check_initial(inverse, "t"));
    CHECK_THROWS_WITH_AS(drawn<float>(inverse, 1, 0, 9), "initial values: OwnLaw 'inverse' gives inf for element 3", ConfigError);
  }
  TEST_CASE("Uniform with min and max lies between them; symmetric ones are those of the bound") {
    const auto values = drawn<double>(Uniform{.min = .5, .max = 2}, 3, 0, many);
    CHECK(*std::min_element(values.begin(), values.end()) >= .5);
    CHECK(*std::min_element(values.begin(), values.end()) < .5001);
    CHECK(*std::max_element(values.begin(), values.end()) <= 2);
    CHECK(*std::max_element(values.begin(), values.end()) > 1.9999);
    CHECK(moment(values, 1) == doctest::Approx(1.25).epsilon(.002));
    CHECK(drawn<double>(Uniform{.min = -.25, .max = .25}, 3, 0, 50) == drawn<double>(Uniform{.25}, 3, 0, 50));
    for (const double value : drawn<double>(Uniform{.min = .5, .max = .5}, 3, 0, 5)) CHECK(value == .5);
  }
  TEST_CASE("Constant is the same everywhere, and a law of one's own sees key and element") {
    CHECK(drawn<double>(Constant{-1.5}, 5, 7, 3) == std::vector<double>{-1.5, -1.5, -1.5});
    const OwnLaw law{"key and element", [](std::uint64_t key, std::int64_t element) {
                       return static_cast<double>(key) + .5 * static_cast<double>(element);
                     }};
    CHECK(drawn<double>(law, 5, 7, 3) == std::vector<double>{8.5, 9, 9.5});
  }
}

}  // namespace rookery
