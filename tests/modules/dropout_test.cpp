// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What several ranks make of it is in core/pass_test.cpp.

#include <rookery/modules/dropout.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("modules/dropout") {
  TEST_CASE("the given share of elements is zero, the others keep the mean, and gradients take the same way") {
    for (const double probability : {.1, .5, .9}) {
      Dropout dropout(probability);
      CHECK(names_of(dropout) == std::vector<std::string>{"calls"});
      place_alone(dropout);
      const auto x = at::ones({1000, 100}, at::kDouble).set_requires_grad(true);
      const auto y = dropout(x);
      const double zero = y.eq(0).sum().item<double>() / 1e5;
      CHECK(std::abs(zero - probability) < 4 * std::sqrt(probability * (1 - probability) / 1e5));
      CHECK(std::abs(y.max().item<double>() - 1 / (1 - probability)) < 1e-12);
      y.sum().backward();
      CHECK(at::equal(x.grad(), y));
      const auto rows = y.eq(0).sum(1).to(at::kDouble);        // [1000], each a binomial of 100
      CHECK(std::abs(rows.var().item<double>() / (100 * probability * (1 - probability)) - 1) < .25);
      const auto pairs = y.eq(0).slice(1, 0, 99).logical_and(y.eq(0).slice(1, 1, 100)).sum().item<double>() / 99e3;
      CHECK(std::abs(pairs - probability * probability) < .01);   // neighbours go independently
    }
  }
  TEST_CASE("masks are a function of seed, name and count of calls") {
    const auto mask = [](std::uint64_t seed, const char* name, int calls) {
      Dropout dropout(.5);
      place_alone(dropout);
      const auto state = std::make_shared<detail::PassState>();
      state->seed = seed;
      dropout.pass.connect(name, state);
      at::Tensor y;
      for (int i = 0; i < calls; ++i) y = dropout(at::ones({20, 10}));
      return y;
    };
    CHECK(at::equal(mask(1, "a", 1), mask(1, "a", 1)));
    CHECK(!at::equal(mask(1, "a", 1), mask(1, "a", 2)));
    CHECK(!at::equal(mask(1, "a", 1), mask(2, "a", 1)));
    CHECK(!at::equal(mask(1, "a", 1), mask(1, "b", 1)));
    Dropout resumed(.5);
    place_alone(resumed);
    const auto state = std::make_shared<detail::PassState>();
    state->seed = 1;
    resumed.pass.connect("a", state);
    resumed.calls.assign(at::ones({1}, at::kLong).mul(4));
    CHECK(at::equal(resumed(at::ones({20, 10})), mask(1, "a", 5)));
  }
  TEST_CASE("inactive in evaluation and with probability 0") {
    Dropout dropout(.5), none(0);
    place_alone(dropout);
    const auto state = std::make_shared<detail::PassState>();
    dropout.pass.connect("a", state);
    const auto x = at::ones({5, 4});
    {
      const detail::Evaluating evaluating(*state);
      CHECK(dropout(x).is_same(x));
    }
    CHECK(none(x).is_same(x));
    CHECK(dropout.calls.tensor().item<std::int64_t>() == 0);
    CHECK(!dropout(x).is_same(x));
    CHECK(dropout(at::zeros({0, 4})).sizes() == at::IntArrayRef({0, 4}));
    CHECK(dropout(at::ones({4, 2, 3})).sizes() == at::IntArrayRef({4, 2, 3}));
  }
  TEST_CASE("what cannot be is refused in one sentence") {
    CHECK_THROWS_WITH_AS(Dropout(1), "Dropout: probability 1; it must be in [0, 1)", ConfigError);
    CHECK_THROWS_AS(Dropout(-.1), ConfigError);
    CHECK_THROWS_AS(Dropout(NAN), ConfigError);
    Dropout dropout(.5);
    CHECK_THROWS_AS(dropout(at::ones({2, 2})), ConfigError);   // not placed
    place_alone(dropout);
    CHECK_THROWS_WITH_AS(dropout(at::ones({})), "Dropout: the input has no rows", ShapeError);
    const auto state = std::make_shared<detail::PassState>();
    dropout.pass.connect("over.dropout.pass", state);
    state->begin(4);
    CHECK(dropout(at::ones({8, 2})).size(0) == 8);
    CHECK_THROWS_WITH_AS(dropout(at::ones({7, 2})),
                         "'over.dropout.pass': an input of 7 rows for a batch of 4; it must have the batch's rows, or as many for each "
                         "of them",
                         ShapeError);
  }
}

}  // namespace rookery
