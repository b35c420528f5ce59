// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/rank_of_positives.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/rank_of_positives") {
  const Rows list{{-1, 1, .5, -.1, 1.5}, {0, 0, 1, 1, 1}, {1, 1, 1, 1, 1}, {8, 8, 8, 8, 8}};

  TEST_CASE("4.2 PosRanks and ReciprocalRank") {
    CHECK(value_of(MeanRank{}, list) == doctest::Approx(2.6666667).epsilon(1e-7));
    CHECK(value_of(ReciprocalRank{}, list) == doctest::Approx(.5277778).epsilon(1e-7));
    MeanRank of_logits;
    of_logits.update_logits(column(list.predictions), column(list.labels), {}, id_column(list.groups));
    CHECK(of_logits.value() == doctest::Approx(2.6666667).epsilon(1e-7));
  }
  TEST_CASE("4.1 PosRanks, ReciprocalRank and HitAtK of lists with good and bad logits") {
    const auto of = [](const std::vector<double>& logits) { return Rows{logits, {0, 0, 1, 1, 1}, {1, 1, 1, 1, 1}, {8, 8, 8, 8, 8}}; };
    const auto good = of({-1, -1, .5, 1, 1.5}), bad = of({1, 1, -1.5, -1, -.5});
    CHECK(value_of(MeanRank{}, good) == 2);
    CHECK(value_of(MeanRank{}, bad) == 4);
    CHECK(value_of(ReciprocalRank{}, good) == doctest::Approx(11. / 18));
    CHECK(value_of(ReciprocalRank{}, bad) == doctest::Approx(47. / 180));
    CHECK(value_of(HitAtK{1}, bad) == 0);
    CHECK(value_of(HitAtK{3}, bad) == doctest::Approx(1. / 3));
  }
  TEST_CASE("HitAtK is the share of positives among the first k") {
    CHECK(value_of(HitAtK{1}, list) == doctest::Approx(1. / 3));
    CHECK(value_of(HitAtK{2}, list) == doctest::Approx(1. / 3));
    CHECK(value_of(HitAtK{3}, list) == doctest::Approx(2. / 3));
    CHECK(value_of(HitAtK{4}, list) == 1);
    CHECK(HitAtK{4}.name() == "hit@4");
  }
  TEST_CASE("each group is a list of its own, every positive counts once") {
    const Rows lists{{.9, .1, .2, .3, .4}, {1, 0, 1, 0, 0}, {1, 1, 1, 1, 1}, {1, 2, 2, 1, 2}};
    CHECK(value_of(MeanRank{}, lists) == 1.5);
    CHECK(value_of(ReciprocalRank{}, lists) == .75);
  }
  TEST_CASE("positives count by weight, rows of weight zero are in no list") {
    CHECK(value_of(MeanRank{}, {{4, 3, 2, 1}, {0, 1, 0, 1}, {1, 3, 0, 1}, {0, 0, 0, 0}}) == doctest::Approx((3 * 2 + 3) / 4.));
  }
  TEST_CASE("rows of one score share the middle of their places: a constant gains nothing") {
    CHECK(value_of(MeanRank{}, {{1, 1, 1}, {1, 0, 0}, {1, 1, 1}, {0, 0, 0}}) == 2);
    CHECK(value_of(HitAtK{1}, {{1, 1, 1}, {1, 0, 0}, {1, 1, 1}, {0, 0, 0}}) == 0);
    CHECK(value_of(MeanRank{}, {{5, 1, 1}, {0, 0, 1}, {1, 1, 1}, {0, 0, 0}}) == 2.5);
  }
  TEST_CASE("no positive, no value; no list, an error") {
    CHECK(std::isnan(value_of(MeanRank{}, {{1}, {0}, {1}, {0}})));
    CHECK_THROWS_AS(unweighted(MeanRank{}, {1}, {1}), ConfigError);
    CHECK_THROWS_WITH_AS(HitAtK{0}, "HitAtK: k is 0; it is 1 or more", ConfigError);
  }
}

}  // namespace rookery
