// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/cross_entropy.hpp>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("metrics/cross_entropy") {
  constexpr ProbabilityClamp clamp{.low = 1e-12, .high = 1 - 1e-12};

  TEST_CASE("a row's cross entropy is the same from its probability and from its logit") {
    for (const double logit : {-20., -3., -.1, 0., .7, 4., 20.}) {
      for (const double label : {0., .3, 1.})
        CHECK(cross_entropy(sigmoid(logit), label, clamp) == doctest::Approx(cross_entropy_of_logit(logit, label)).epsilon(1e-6));
    }
  }
  TEST_CASE("a confident mistake costs the clamp from a probability, and what it says from a logit") {
    CHECK(cross_entropy(0, 1, clamp) == doctest::Approx(12 * std::log(10.)));
    CHECK(cross_entropy_of_logit(-1000, 1) == 1000);
    CHECK(cross_entropy_of_logit(1000, 1) == 0);
  }
  TEST_CASE("one class has no entropy") {
    CHECK(entropy(0, clamp) == 0);
    CHECK(entropy(1, clamp) == 0);
    CHECK(entropy(.5, clamp) == doctest::Approx(std::log(2.)));
  }
}

}  // namespace rookery
