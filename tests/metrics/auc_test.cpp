// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/scored_rows.hpp>

#include <ATen/ops/ones.h>

#include <algorithm>
#include <ctime>
#include <numeric>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// The definition, pair by pair.
double pairwise(const Rows& rows) {
  double won = 0, pairs = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows.size(); ++j) {
      if (rows.labels[i] <= .5 || rows.labels[j] > .5) continue;
      const double pair = rows.weights[i] * rows.weights[j];
      pairs += pair;
      if (rows.predictions[i] > rows.predictions[j]) won += pair;
      if (rows.predictions[i] == rows.predictions[j]) won += pair / 2;
    }
  }
  return won / pairs;
}

}  // namespace

TEST_SUITE("metrics/auc") {
  const std::vector<double> p{.1, .4, .35, .8}, y{0, 0, 1, 1};

  TEST_CASE("A42 AUC, ungrouped; a constant and one class at .5") {
    const auto rows = five_rows();
    CHECK(value_of(Auc{}, rows) == doctest::Approx(.4464286).epsilon(1e-7));
    CHECK(value_of(Auc{}, {rows.labels, rows.labels, rows.weights}) == 1);
    CHECK(value_of(Auc{}, {{0, 1, 1, 0, 0}, rows.labels, rows.weights}) == 0);
    CHECK(value_of(Auc{}, {{.3, .3, .3, .3, .3}, rows.labels, rows.weights}) == .5);
    CHECK(unweighted(Auc{{.one_class = .5}}, p, {1, 1, 1, 1}) == .5);
    CHECK(unweighted(Auc{{.one_class = .5}}, p, {0, 0, 0, 0}) == .5);
  }
  TEST_CASE("4.2 AUROC unweighted, weighted and as column vectors") {
    CHECK(unweighted(Auc{}, p, y) == .75);
    CHECK(value_of(Auc{}, four_rows()) == doctest::Approx(.7142857).epsilon(1e-7));
    Auc columns;
    columns.update(column(p).unsqueeze(1), column(y).unsqueeze(1));
    CHECK(columns.value() == .75);
  }
  TEST_CASE("4.2 AUROC with ties") {
    CHECK(unweighted(Auc{}, {.5, .5, .5, .2}, {0, 1, 1, 0}) == .75);
    CHECK(unweighted(Auc{}, {.5, .5, .5, .5}, y) == .5);
    CHECK(unweighted(Auc{}, {0., -0., 0., -0.}, y) == .5);
  }
  TEST_CASE("4.2 AUROC of scaled scores") {
    CHECK(unweighted(Auc{}, {1e-10, 4e-10, 3.5e-10, 8e-10}, y) == .75);
    CHECK(unweighted(Auc{}, {.5 + 1e-17, .5 + 4e-16, .5 + 3.5e-16, .5 + 8e-16}, y) == .75);   // told apart by float64 only
    CHECK(unweighted(Auc{}, {-4, 2, 1, 300}, y) == .75);                                     // any finite score will do
  }
  TEST_CASE("4.2 AUROC of one class is NaN") {
    CHECK(std::isnan(unweighted(Auc{}, p, {0, 0, 0, 0})));
    CHECK(std::isnan(unweighted(Auc{}, p, {1, 1, 1, 1})));
    CHECK(std::isnan(Auc{}.value()));
    CHECK(std::isnan(value_of(Auc{}, {p, y, {1, 1, 0, 0}})));
  }
  TEST_CASE("4.2 AUROC of one class is refused on request") {
    CHECK(unweighted(Auc{{.refuse_one_class = true}}, p, y) == .75);
    CHECK_THROWS_WITH_AS(unweighted(Auc{{.refuse_one_class = true}}, p, {0, 0, 0, 0}),
                         "Auc: 4 rows, positives of weight 0, negatives of weight 4; it takes both classes", DataError);
  }
  TEST_CASE("4.2 Auc, all ties 0 when a tie is no win, as drawn pairs are expected to count") {
    CHECK(unweighted(Auc{{.tie = 0}}, {.5, .5, .5, .5}, y) == 0);
    CHECK(unweighted(Auc{{.tie = 0}}, {.5, .5, .5, .2}, {0, 1, 1, 0}) == .5);
    CHECK(unweighted(Auc{{.tie = 1}}, {.5, .5, .5, .5}, y) == 1);
    CHECK_THROWS_WITH_AS(Auc({.tie = 2}), "Auc: tie is 2; it lies in [0, 1]", ConfigError);
  }
  TEST_CASE("4.2 AUROC of soft labels counts classes, .75 where upstream has .7125") {
    CHECK(unweighted(Auc{}, p, {.2, .2, .7, .7}) == .75);
  }
  TEST_CASE("the value is the definition's on random weighted rows with ties") {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto rows = random_rows(20 + 15 * seed, seed, seed % 2 == 1);
      CHECK(close(value_of(Auc{}, rows), pairwise(rows), 1e-13));
    }
  }
  TEST_CASE("the value is the definition's when some rows fit float32 and some do not") {
    auto rows = random_rows(300, 77);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows.predictions[i] = i % 4 == 0 ? .5 : std::round(rows.predictions[i] * 8) / 8;
      rows.weights[i] = i % 2 == 0 ? 2 : rows.weights[i];
      if (i % 5 == 0) rows.predictions[i] = std::round(rows.predictions[i] * 10) / 10 - 3;
    }
    CHECK(close(value_of(Auc{}, rows), pairwise(rows), 1e-13));
  }
  TEST_CASE("the order of rows does not change one bit") {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      auto rows = random_rows(500, seed);
      for (auto& score : rows.predictions) score = std::round(score * 8) / 8;
      std::vector<std::size_t> order(rows.size());
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
      Rows shuffled;
      for (const auto i : order) {
        shuffled.predictions.push_back(rows.predictions[i]);
        shuffled.labels.push_back(rows.labels[i]);
        shuffled.weights.push_back(rows.weights[i]);
      }
      CHECK(value_of(Auc{}, shuffled) == value_of(Auc{}, rows));
    }
  }
  TEST_CASE("logits rank as their probabilities, and further where those saturate") {
    Auc metric;
    metric.update_logits(column({40, 41, 42, 43}), column({0, 1, 0, 1}));
    CHECK(metric.value() == .75);
  }
  TEST_CASE("rows of weight zero are not kept") {
    Auc metric;
    metric.update(column({.1, .2}), column({0, 1}), column({0, 1}));
    CHECK(metric.size() == 1);
  }
  TEST_CASE("a packed state that cannot be one is refused") {
    Auc metric;
    CHECK_THROWS_WITH_AS(metric.merge(at::ones({3})), "Auc: a packed state has 3 numbers; rows have two each", ShapeError);
  }
  TEST_CASE("a million rows take well under a second") {
    std::mt19937_64 draw(4);
    std::uniform_real_distribution<float> uniform;
    std::vector<float> scores(1000000), labels(scores.size());
    for (auto& score : scores) score = uniform(draw);
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = uniform(draw) < scores[i] ? 1 : 0;
    const auto score_column = at::tensor(scores), label_column = at::tensor(labels);    // [1e6] each
    const auto start = std::clock();
    Auc metric;
    metric.update(score_column, label_column);
    const double value = metric.value();
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;   // of this process, whatever else runs
    MESSAGE("1e6 rows: ", seconds, " s");
    CHECK(value == doctest::Approx(5. / 6).epsilon(.002));   // P(positive above negative) when a label is 1 with probability p
#ifndef __SANITIZE_ADDRESS__
    CHECK(seconds < 1);
#endif
  }
}

}  // namespace rookery
