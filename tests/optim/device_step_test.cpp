// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "support/fake_device.hpp"

#include <rookery/optim/device_step.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

using cases::fake_device;

constexpr double infinite = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

at::Tensor numbers(const std::vector<double>& values) { return at::tensor(values, at::kDouble).to(fake_device); }
double factor_of(const std::vector<double>& values, double normaliser, GradientDivision division, bool divides, double clip) {
  return cases::seen_on_device(detail::device_factor(numbers(values), 2, normaliser, 4, division, divides, clip).factor).item<double>();
}
bool valid(const std::vector<double>& values, double normaliser = 0, bool divides = true) {
  const auto known = detail::device_factor(numbers(values), 2, normaliser, 4, GradientDivision::global_mean, divides, 0);
  return cases::seen_on_device(known.valid).item<bool>();
}

TEST_SUITE("optim/device_step") {
  TEST_CASE("the factor of a device is that of the host") {
    cases::device_to_host();
    const std::vector<double> squares{9, 4, 5, 3, 0};        // of two tables, a normaliser of 5 there, two dense gradients
    for (const auto division : {GradientDivision::global_mean, GradientDivision::mean, GradientDivision::sum})
      for (const bool divides : {true, false}) {
        const double scale = detail::gradient_scale(division, divides, 5 + 3, 4);
        CHECK(factor_of(squares, 3, division, divides, 0) == doctest::Approx(scale).epsilon(1e-15));
        for (const double clip : {.01, 1000.})
          CHECK(factor_of(squares, 3, division, divides, clip) ==
                doctest::Approx(scale * std::min(1., clip / (std::sqrt(16.) * scale + 1e-6))).epsilon(1e-14));
      }
    CHECK(factor_of({9, 4, 0, 3, 0}, 0, GradientDivision::global_mean, true, 0) == 0);
    CHECK(cases::device_to_host() == 0);
  }

  TEST_CASE("a number that is not finite, or a divisor below 0, is seen there") {
    CHECK(valid({1, 2, 3, 4}));
    CHECK(valid({1, 2, 0, 4}));
    CHECK_FALSE(valid({1, nan, 3, 4}));
    CHECK_FALSE(valid({1, 2, 3, infinite}));
    CHECK_FALSE(valid({1, 2, nan, 4}));
    CHECK_FALSE(valid({1, 2, 3, 4}, infinite));
    CHECK_FALSE(valid({1, 2, 3, 4}, nan));
    CHECK_FALSE(valid({1, 2, -3, 4}));
    CHECK(valid({1, 2, -3, 4}, 3));
    CHECK(valid({1, 2, -3, 4}, 0, false));
  }

  TEST_CASE("numbers follow to the host, where they name what was not finite") {
    Parameter parameter({2}, Zeros{}, 0, at::kDouble);
    parameter.place("over.weight", 0, fake_device);
    std::vector<DenseParameter> dense{{"over.weight", &parameter}, {"over.bias", &parameter}};
    dense[1].gradient = numbers({3, 4});
    std::vector<PlacedTable> tables(1);
    tables[0].description.name = "item";
    const auto read = [&](double table) {
      detail::StepReport report;
      CHECK_FALSE(report.has_come());
      const auto there = numbers({table, 8});
      report.send(detail::step_numbers(there, dense), numbers({0, 1, 0, 0, 0, 0}), at::tensor({0., 2., 1., 7.}, at::kDouble), dense);
      there.zero_();                                         // later work on the device
      CHECK(report.take_new());
      CHECK_FALSE(report.take_new());
      CHECK(report.reached() == std::vector<char>{0, 1});
      return report.read(tables, dense, true);
    };
    cases::device_to_host();
    const auto known = read(11);
    CHECK(known.squares == doctest::Approx(11 + 25));
    CHECK(known.normaliser == 10);
    CHECK(known.not_finite.empty());
    CHECK(read(nan).not_finite == "the gradient of 'item.weight' is not finite because of ranks [1]");
    CHECK(cases::device_to_host() == 0);
  }
}

}  // namespace
}  // namespace rookery
