// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/weights_to_log.hpp>

#include <rookery/log/reducers.hpp>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

TEST_SUITE("log/weights_to_log") {
  TEST_CASE("4.3 parameter reducers of all weights, or of those named") {
    auto placed = ShardingPolicy<Local>{}.apply(cases::model());
    CHECK(weights_to_log(placed, L1Norm{}).at("model/l1_norm/layers.0.weight") == doctest::Approx(3.3).epsilon(1e-7));
    const auto some = weights_to_log(placed, PerParameter<For<"layers.0.weight", StandardDeviation>, For<"scale", MaxAbs>>{});
    CHECK(some.size() == 2);
    CHECK(some.at("model/std/layers.0.weight") == doctest::Approx(.3333712).epsilon(1e-6));
    CHECK(some.contains("model/max_abs/scale"));
  }
  TEST_CASE("an empty selection is an empty list, an unknown name an error") {
    auto placed = ShardingPolicy<Local>{}.apply(cases::model());
    CHECK(weights_to_log(placed, PerParameter<>{}).empty());
    CHECK_THROWS_AS(weights_to_log(placed, PerParameter<For<"layers.0.weigth", L2Norm>>{}), IndexError);
  }
  TEST_CASE("every rank has the same values") {
    std::vector<LogValues> found(3);
    Threads::run(3, [&](Threads topology) {
      auto placed = ShardingPolicy<Threads>(topology, {.plan = cases::plan(3)}).apply(cases::model());
      found[static_cast<std::size_t>(topology.rank())] = weights_to_log(placed, MeanRowNorm{});
    });
    for (const auto& [name, value] : found[0]) {
      CAPTURE(name);
      CHECK((std::isnan(value) || (value == found[1].at(name) && value == found[2].at(name))));
    }
  }
}

}  // namespace rookery
