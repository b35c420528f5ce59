// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/regression_auc.hpp>

#include <rookery/metrics/kept_rows.hpp>

#include <ctime>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Pairwise {
  double rauc, xauc;
};

/// The definitions, pair by pair.
Pairwise pairwise(const Rows& rows) {
  double pairs = 0, against = 0, weighted = 0, alike = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const double weight = rows.weights[i] * rows.weights[j];
      const double p = rows.predictions[i] - rows.predictions[j], y = rows.labels[i] - rows.labels[j];
      if (weight > 0) {
        pairs += 1;
        against += p * y < 0 ? 1 : 0;
      }
      weighted += weight;
      alike += p * y > 0 || (p == 0 && y == 0) ? weight : 0;
    }
  }
  return {1 - against / pairs, alike / weighted};
}

}  // namespace

TEST_SUITE("metrics/regression_auc") {
  TEST_CASE("A49 XAUC") {
    CHECK(value_of(Xauc{}, {{.1, .2, .3, .4, .5}, {.2, .1, .3, .5, .25}, {1, 1, 1, 0, 1}}) == doctest::Approx(.6666667).epsilon(1e-7));
  }
  TEST_CASE("A49 RAUC") {
    CHECK(unweighted(Rauc{}, {1, 2, 3, 4}, {2, 1, 4, 3}) == doctest::Approx(.6666667).epsilon(1e-7));
    CHECK(value_of(Rauc{}, five_rows()) == doctest::Approx(.6));
  }
  TEST_CASE("the values are the definitions' on random rows with ties in predictions and labels") {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      auto rows = random_rows(10 + 20 * seed, seed, true);
      for (auto& label : rows.labels) label = std::round(20 * label) - 7;
      const auto [rauc, xauc] = pairwise(rows);
      CHECK(close(value_of(Rauc{}, rows), rauc, 1e-12));
      CHECK(close(value_of(Xauc{}, rows), xauc, 1e-12));
    }
  }
  TEST_CASE("perfect, inverted and constant") {
    CHECK(unweighted(Rauc{}, {1, 2, 3}, {10, 20, 30}) == 1);
    CHECK(unweighted(Rauc{}, {3, 2, 1}, {10, 20, 30}) == 0);
    CHECK(unweighted(Rauc{}, {2, 2, 2}, {10, 20, 30}) == 1);
    CHECK(unweighted(Xauc{}, {1, 2, 3}, {10, 20, 30}) == 1);
    CHECK(unweighted(Xauc{}, {2, 2, 2}, {10, 20, 30}) == 0);
    CHECK(unweighted(Xauc{}, {2, 2, 2}, {10, 10, 10}) == 1);
    CHECK(std::isnan(unweighted(Rauc{}, {2}, {10})));
    CHECK(std::isnan(Xauc{}.value()));
  }
  TEST_CASE("time does not grow with the square of the rows") {
    std::mt19937_64 draw(4);
    std::uniform_real_distribution<double> uniform;
    Rows rows;
    for (int i = 0; i < 200000; ++i) {
      rows.predictions.push_back(uniform(draw));
      rows.labels.push_back(uniform(draw));
      rows.weights.push_back(1);
    }
    const auto start = std::clock();
    CHECK(value_of(Rauc{}, rows) == doctest::Approx(.5).epsilon(.02));
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    MESSAGE("2e5 rows: ", seconds, " s");
#ifndef __SANITIZE_ADDRESS__
    CHECK(seconds < 2);
#endif
  }
}

}  // namespace rookery
