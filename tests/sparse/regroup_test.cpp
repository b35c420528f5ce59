// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/regroup.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Integers = std::vector<std::int64_t>;
using Keys = std::vector<std::string>;

KeyedTensor keyed(const Keys& keys, const Integers& dims, at::Tensor values) {
  return {std::make_shared<KeyedColumns>(KeyedColumns{keys, dims}), std::move(values)};
}

}  // namespace

TEST_SUITE("sparse/regroup") {
  TEST_CASE("A12 regroup of two tensors") {
    const std::array inputs{keyed({"f1", "f2"}, {2, 1}, at::tensor({1, 2, 3}).view({1, 3})),
                            keyed({"f3", "f4"}, {1, 2}, at::tensor({4, 5, 6}).view({1, 3}))};
    const RegroupPlan::Names groups{{"f1", "f3"}, {"f4", "f1"}};
    const auto outputs = regroup(inputs, groups);
    REQUIRE(outputs.size() == 2);
    CHECK(at::equal(outputs[0], at::tensor({1, 2, 4}).view({1, 3})));
    CHECK(at::equal(outputs[1], at::tensor({5, 6, 1, 2}).view({1, 4})));
    const auto named = regroup_as_dict(inputs, groups, {"left", "right"});
    CHECK(named[1].first == "right");
    CHECK(at::equal(named[1].second, outputs[1]));
    CHECK_THROWS_WITH_AS(regroup_as_dict(inputs, groups, {"left"}), "regroup_as_dict: 1 names for 2 groups", ShapeError);
  }
  TEST_CASE("A14 the moves of a plan") {
    const RegroupPlan plan({{"f1", "f2"}, {"f3", "f4", "f5"}, {"f6"}}, {{3, 4}, {5, 6, 7}, {8}},
                           {{"f1", "f3"}, {"f2"}, {"f4", "f1", "f6"}, {"f1", "f5"}});
    CHECK(plan.input_widths() == Integers{7, 18, 8});
    CHECK(plan.output_widths() == Integers{8, 4, 17, 10});
    const std::vector<RegroupMove> moves{{0, 0, 0, 0, 3}, {1, 0, 0, 3, 5}, {0, 1, 3, 0, 4},  {1, 2, 5, 0, 6},
                                         {0, 2, 0, 6, 3}, {2, 2, 0, 9, 8}, {0, 3, 0, 0, 3}, {1, 3, 11, 3, 7}};
    CHECK((plan.moves() == moves));
  }
  TEST_CASE("what lies side by side already is not copied") {
    const std::array inputs{keyed({"a", "b"}, {2, 1}, at::arange(6).view({2, 3})), keyed({"c"}, {2}, at::arange(4).view({2, 2}))};
    const auto outputs = regroup(inputs, {{"c"}, {"a", "b"}, {"b"}, {"a"}, {"b", "a"}, {}});
    CHECK(outputs[0].is_same(inputs[1].values()));
    CHECK(outputs[1].is_same(inputs[0].values()));
    CHECK(outputs[2].is_alias_of(inputs[0].values()));
    CHECK(outputs[3].is_alias_of(inputs[0].values()));
    CHECK(!outputs[4].is_alias_of(inputs[0].values()));
    CHECK(outputs[5].sizes() == at::IntArrayRef({2, 0}));
  }
  TEST_CASE("a plan refuses keys of no input or of two, and inputs that it was not made for") {
    const RegroupPlan::Names keys{{"a", "b"}, {"c"}};
    const std::vector<Integers> dims{{2, 1}, {2}};
    CHECK_THROWS_WITH_AS(RegroupPlan(keys, dims, {{"d"}}), "RegroupPlan: no key 'd'; keys are [a, b, c]", IndexError);
    CHECK_THROWS_WITH_AS(RegroupPlan({{"a"}, {"a"}}, {{2}, {2}}, {{"a"}}), "RegroupPlan: key 'a' is in input 0 and again in input 1",
                         ConfigError);
    CHECK_THROWS_WITH_AS(RegroupPlan(keys, {{2, 1}}, {}), "RegroupPlan: keys of 2 inputs and dims of 1", ShapeError);
    CHECK_THROWS_WITH_AS(RegroupPlan(keys, {{2}, {2}}, {}), "RegroupPlan: input 0 has 2 keys and 1 dims", ShapeError);
    const RegroupPlan plan(keys, dims, {{"a", "c"}});
    CHECK_THROWS_WITH_AS(plan(std::vector{at::zeros({1, 3})}), "RegroupPlan: 1 inputs; it was made for 2", ShapeError);
    CHECK_THROWS_WITH_AS(plan(std::vector{at::zeros({1, 3}), at::zeros({1, 3})}),
                         "RegroupPlan: input 1 has shape [1, 3]; it was made for 2 columns, and rows as those of the first", ShapeError);
    CHECK_THROWS_AS(plan(std::vector{at::zeros({1, 3}), at::zeros({2, 2})}), ShapeError);
    CHECK(RegroupPlan(RegroupPlan::Names{}, {}, {{}})(std::vector<at::Tensor>{})[0].numel() == 0);
  }
  TEST_CASE("every group is the columns of its keys, values and gradients, for random shapes with empty ones") {
    for (std::uint64_t seed = 0; seed < 500; ++seed) {
      CAPTURE(seed);
      cases::Draw draw(seed);
      const auto rows = draw.integer(0, 4), count = draw.integer(1, 4);
      std::vector<KeyedTensor> inputs;
      std::vector<at::Tensor> values;
      Keys names;
      for (std::int64_t i = 0; i < count; ++i) {
        Keys keys;
        Integers dims;
        std::int64_t width = 0;
        for (auto k = draw.integer(0, 3); k > 0; --k) {
          keys.push_back(concat("f", names.size()));
          names.push_back(keys.back());
          width += dims.emplace_back(draw.integer(0, 3));
        }
        values.push_back(draw.tensor({rows, width}).set_requires_grad(true));
        inputs.push_back(keyed(keys, dims, values.back()));
      }
      RegroupPlan::Names groups(static_cast<std::size_t>(draw.integer(0, 4)));
      if (!names.empty())
        for (auto& group : groups)
          for (auto k = draw.integer(0, 5); k > 0; --k) group.push_back(draw.one_of(names));
      const RegroupPlan plan(inputs, groups);
      const auto outputs = plan(std::span<const KeyedTensor>(inputs));
      REQUIRE(outputs.size() == groups.size());
      auto total = at::zeros({}, at::kDouble), expected_total = at::zeros({}, at::kDouble);
      for (std::size_t g = 0; g < groups.size(); ++g) {
        std::vector<at::Tensor> columns{at::empty({rows, 0}, at::kDouble)};
        for (const auto& key : groups[g])
          for (const auto& input : inputs)
            for (const auto& [name, tensor] : input.to_dict())
              if (name == key) columns.push_back(tensor);
        const auto expected = at::cat(columns, 1);
        CHECK(at::equal(outputs[g], expected));
        CHECK(outputs[g].size(1) == plan.output_widths()[g]);
        total = total.add(outputs[g].square().sum());
        expected_total = expected_total.add(expected.square().sum());
      }
      if (!total.requires_grad()) continue;
      total.backward();
      std::vector<at::Tensor> gradients;
      for (auto& input : values) {
        gradients.push_back(input.grad().defined() ? input.grad().clone() : at::zeros(input.sizes(), at::kDouble));
        input.mutable_grad().reset();
      }
      if (expected_total.requires_grad()) expected_total.backward();
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto& grad = values[i].grad();
        CHECK(at::equal(gradients[i], grad.defined() ? grad : at::zeros(values[i].sizes(), at::kDouble)));
      }
    }
  }
}

}  // namespace rookery
