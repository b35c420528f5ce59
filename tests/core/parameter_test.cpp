// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/parameter.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("core/parameter") {
  TEST_CASE("a declared parameter has a shape and no memory") {
    const Parameter parameter({3, 4}, Normal{}, 0, at::kDouble);
    CHECK(parameter.shape() == std::vector<std::int64_t>{3, 4});
    CHECK(parameter.numel() == 12);
    CHECK(Parameter(std::vector<std::int64_t>{}).numel() == 1);
    CHECK((parameter.dtype() == at::kDouble));
    CHECK(!parameter.is_placed());
    CHECK(!parameter.is_assigned());
    CHECK_THROWS_WITH_AS(parameter.tensor(),
                         "Parameter: read before the model was placed; list it in members() and pass the model through "
                         "ShardingPolicy::apply first",
                         ConfigError);
    CHECK(parameter.name().empty());
  }
  TEST_CASE("placing fills by seed and full name, on +-1 / sqrt(fan in)") {
    const auto placed = [](std::string_view name, std::uint64_t seed, std::int64_t fan_in = 0) {
      Parameter parameter({50, 16}, Uniform{}, fan_in);
      parameter.place(name, seed);
      return parameter.tensor().detach();
    };
    const auto values = placed("over.weight", 7);
    CHECK((values.scalar_type() == at::kFloat));
    CHECK(at::equal(values, placed("over.weight", 7)));
    CHECK(!at::equal(values, placed("over.weight", 8)));
    CHECK(!at::equal(values, placed("over.bias", 7)));
    CHECK(values.abs().max().item<double>() <= .25);  // 1 / sqrt(16)
    CHECK(values.abs().max().item<double>() > .24);
    CHECK(placed("over.weight", 7, 4).abs().max().item<double>() > .48);
    std::vector<float> expected(800);
    fill_initial(Uniform{}, .25, random_key(7, "over.weight"), 0, expected.data(), 800);
    for (std::int64_t i = 0; i < 800; ++i) CHECK(values.view({-1})[i].item<float>() == expected[static_cast<std::size_t>(i)]);
  }
  TEST_CASE("a placed parameter is a leaf that requires grad; it is placed once") {
    Parameter parameter({2}, Uniform{});
    parameter.place("a", 1);
    const auto values = parameter.tensor().detach().clone();
    CHECK_THROWS_WITH_AS(parameter.place("b", 2), "Parameter: 'b' is placed already", ConfigError);
    CHECK(at::equal(parameter.tensor(), values));
    CHECK(parameter.tensor().requires_grad());
    CHECK(parameter.tensor().is_leaf());
    CHECK(parameter.name() == "a");
    const at::Tensor& as_tensor = parameter;
    CHECK(as_tensor.is_same(parameter.tensor()));
  }
  TEST_CASE("the default law is zeros") {
    Parameter parameter({2, 2}, Zeros{}, 0, at::kDouble);
    parameter.place("a", 1);
    CHECK((parameter.tensor().scalar_type() == at::kDouble));
    CHECK(parameter.tensor().abs().max().item<double>() == 0);
  }
  TEST_CASE("assigned values win over the law, are copied, and take the parameter's dtype") {
    auto values = at::full({2, 3}, .5, at::kDouble);
    Parameter parameter({2, 3}, Normal{});
    parameter.assign(values);
    CHECK(parameter.is_assigned());
    CHECK(!parameter.is_placed());
    values.fill_(9);
    parameter.place("a", 1);
    CHECK((parameter.tensor().scalar_type() == at::kFloat));
    CHECK(at::equal(parameter.tensor(), at::full({2, 3}, .5)));
    parameter.assign(values);
    CHECK(at::equal(parameter.tensor(), at::full({2, 3}, 9.0)));
    CHECK(parameter.tensor().requires_grad());
    CHECK_THROWS_WITH_AS(parameter.assign(at::ones({3, 2})), "Parameter: assigned values of shape [3, 2] to shape [2, 3]", ShapeError);
  }
  TEST_CASE("copies of one declaration have values of their own once placed") {
    Parameter declared({2});
    declared.assign(at::ones({2}));
    auto one = declared, other = declared;
    one.place("a", 1);
    other.place("a", 1);
    one.assign(at::full({2}, 5.0));
    CHECK(at::equal(other.tensor(), at::ones({2})));
    CHECK(!declared.is_placed());
    Buffer buffer({2});
    buffer.assign(at::ones({2}));
    auto copy = buffer;
    buffer.place();
    copy.place();
    CHECK(!copy.tensor().is_alias_of(buffer.tensor()));
  }
  TEST_CASE("shared tensors stay those of whoever computes with them") {
    const auto tensor = at::ones({2, 3}), running = at::ones({2});
    auto parameter = Parameter::sharing(tensor);
    CHECK(parameter.shape() == std::vector<std::int64_t>{2, 3});
    parameter.assign(at::full({2, 3}, 2.0));
    parameter.place("a", 1);
    CHECK(parameter.tensor().is_same(tensor));
    CHECK(tensor.requires_grad());
    CHECK(at::equal(tensor, at::full({2, 3}, 2.0)));
    auto buffer = Buffer::sharing(running);
    buffer.place();
    buffer.assign(at::full({2}, 3.0));
    CHECK(buffer.tensor().is_same(running));
    CHECK(at::equal(running, at::full({2}, 3.0)));
    CHECK_THROWS_WITH_AS(Parameter::sharing(at::ones({2, 3}).t()), "Parameter: a tensor of shape [3, 2] to share is not contiguous",
                         ConfigError);
  }
  TEST_CASE("a dtype that cannot train is refused when placed") {
    Parameter parameter({2}, Uniform{}, 0, at::kHalf);
    CHECK_THROWS_AS(parameter.place("a", 1), ConfigError);
  }
  TEST_CASE("a buffer starts at zero or as assigned, and does not train") {
    Buffer buffer({2}, at::kLong);
    CHECK_THROWS_WITH_AS(buffer.tensor(),
                         "Buffer: read before the model was placed; list it in members() and pass the model through "
                         "ShardingPolicy::apply first",
                         ConfigError);
    buffer.place();
    CHECK(at::equal(buffer.tensor(), at::zeros({2}, at::kLong)));
    CHECK(!buffer.tensor().requires_grad());
    buffer.assign(at::ones({2}));
    CHECK(at::equal(buffer.tensor(), at::ones({2}, at::kLong)));
    CHECK_THROWS_WITH_AS(buffer.assign(at::ones({3})), "Buffer: assigned values of shape [3] to shape [2]", ShapeError);
    Buffer given({2});
    given.assign(at::ones({2}));
    given.place();
    CHECK(at::equal(given.tensor(), at::ones({2})));
  }
}

}  // namespace rookery
