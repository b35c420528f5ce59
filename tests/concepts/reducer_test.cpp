// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/concepts/reducer.hpp>

#include <rookery/log/reducers.hpp>
#include <rookery/log/weight_logger.hpp>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

/// The least type that is a reducer: how many elements there are.
struct Archetype {
  static constexpr std::string_view name = "archetype";
  static constexpr auto input = ReducerInput::elements;
  static constexpr std::int64_t partial_size = 1;
  at::Tensor partial(const at::Tensor&) const { return at::zeros({1}, at::kDouble); }
  at::Tensor merge(const at::Tensor&) const { return at::zeros({1}, at::kDouble); }
  double finish(std::span<const double>, std::int64_t count) const { return static_cast<double>(count); }
};
struct WithData : Archetype {
  double power = 2;
};
struct WithoutName : Archetype {
  static constexpr std::string_view name = "";
};
struct FloatPartial : Archetype {
  float partial(const at::Tensor&) const { return 0; }
};
static_assert(concepts::Reducer<Archetype>);
static_assert(concepts::Reducer<L2Norm> && concepts::Reducer<L1Norm> && concepts::Reducer<Mean> && concepts::Reducer<MaxAbs>);
static_assert(concepts::Reducer<StandardDeviation> && concepts::Reducer<MeanRowNorm>);
static_assert(!concepts::Reducer<WithData> && !concepts::Reducer<WithoutName> && !concepts::Reducer<FloatPartial> &&
              !concepts::Reducer<int>);

}  // namespace

TEST_SUITE("concepts/reducer") {
  TEST_CASE("a logger asks no more of a reducer than the concept") {
    auto placed = ShardingPolicy<Local>{}.apply(cases::model());
    CHECK(WeightLogger<Archetype>(placed)(placed).at("model/archetype/layers.0.weight") == 12);
  }
}

}  // namespace rookery
