// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/modules/dot_interaction.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/modules/mlp.hpp>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <rookery/checkpoint/import_state.hpp>

#include "modules/alone.hpp"
#include "support/random_batches.hpp"
#include "support/tolerances.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

template <class Module> void place(Module& module) {
  visit_leaves(module, "m", [](std::string_view name, Parameter& parameter) { parameter.place(name, 3); });
}
template <class Module> std::vector<std::string> names(Module& module) {
  std::vector<std::string> found;
  visit_leaves(module, "", [&](std::string_view name, Parameter&) { found.emplace_back(name); });
  return found;
}

}  // namespace

TEST_SUITE("modules/linear") {
  TEST_CASE("a layer is x W^T + b, with gradients") {
    cases::Draw draw(1);
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      Linear layer(3, 4, dtype);
      CHECK(names(layer) == std::vector<std::string>{"weight", "bias"});
      const auto weight = draw.tensor({4, 3}, dtype), bias = draw.tensor({4}, dtype), x = draw.tensor({5, 3}, dtype);
      layer.weight.assign(weight);
      layer.bias->assign(bias);
      place(layer);
      const auto y = layer(x);
      CHECK(cases::difference(y, at::linear(x, weight, bias)) <= cases::tolerance(dtype));
      CHECK(cases::difference(y, x.matmul(weight.t()).add(bias)) <= cases::tolerance(dtype));
      y.sum().backward();
      CHECK(cases::difference(layer.weight.tensor().grad(), x.sum(0).expand({4, 3})) <= cases::tolerance(dtype));
      CHECK(at::equal(layer.bias->tensor().grad(), at::ones({4}, dtype).mul(5)));
      CHECK(layer(draw.tensor({2, 6, 3}, dtype)).sizes() == at::IntArrayRef({2, 6, 4}));
      CHECK(layer(draw.tensor({0, 3}, dtype)).sizes() == at::IntArrayRef({0, 4}));
    }
  }
  TEST_CASE("weight and bias start even on +-1 / sqrt(in_features), as torch's do") {
    Linear layer(16, 400);
    place(layer);
    for (const auto& tensor : {layer.weight.tensor(), layer.bias->tensor()}) {
      CHECK(tensor.abs().max().item<double>() <= .25);
      CHECK(tensor.abs().max().item<double>() > .245);
      CHECK(std::abs(tensor.mean().item<double>()) < .025);
    }
  }
  TEST_CASE("without a bias there is none to train, to name or to import; torch's Linear(bias=False) is imported strictly") {
    cases::Draw draw(4);
    Linear layer(3, 4, {.bias = false}, at::kDouble);
    CHECK(names(layer) == std::vector<std::string>{"weight"});
    const auto weight = draw.tensor({4, 3}), bias = draw.tensor({4}), x = draw.tensor({5, 3});
    const auto imported = import_state(layer, {{"weight", weight}});
    CHECK(imported.missing.empty());
    CHECK(imported.extra.empty());
    CHECK_THROWS_AS(import_state(layer, {{"weight", weight}, {"bias", bias}}), Error);
    Linear with(3, 4, at::kDouble);
    CHECK_THROWS_AS(import_state(with, {{"weight", weight}}), Error);
    place(layer);
    CHECK(cases::difference(layer(x), x.matmul(weight.t())) <= cases::tolerance(at::kDouble));
    CHECK(names(with) == std::vector<std::string>{"weight", "bias"});
    CHECK((Linear(3, 4, {.bias = false}).weight.dtype() == at::kFloat));
  }
  TEST_CASE("an input of another width, and widths that cannot be, are refused in one sentence") {
    Linear layer(3, 4);
    place(layer);
    CHECK_THROWS_WITH_AS(layer(at::zeros({2, 5})), "Linear 'm.weight': an input of shape [2, 5] for 3 features", ShapeError);
    CHECK_THROWS_WITH_AS(layer(at::zeros({})), "Linear 'm.weight': an input of shape [] for 3 features", ShapeError);
    CHECK_THROWS_WITH_AS(layer(at::Tensor{}), "Linear 'm.weight': the input is an undefined tensor", ShapeError);
    CHECK_THROWS_WITH_AS(layer(at::zeros({2, 3}, at::kDouble)),
                         "Linear 'm.weight': an input of dtype Double for a weight of Float; convert the input, or declare the layer "
                         "in its dtype",
                         ShapeError);
    CHECK_THROWS_AS(layer(at::zeros({2, 3}, at::kLong)), ShapeError);
    CHECK_THROWS_WITH_AS(Linear(0, 4), "Linear: 0 to 4 features; both must be positive", ConfigError);
    CHECK_THROWS_WITH_AS(Linear(3, -1), "Linear: 3 to -1 features; both must be positive", ConfigError);
    CHECK_THROWS_AS(Linear(3, 4)(at::zeros({2, 3})), ConfigError);  // not placed
  }
}

TEST_SUITE("modules/mlp") {
  TEST_CASE("layers follow one another with ReLU between them, and after the last on request") {
    cases::Draw draw(2);
    for (const auto final_activation : {FinalActivation::none, FinalActivation::relu}) {
      Mlp mlp(3, {5, 4, 2}, final_activation, at::kDouble);
      CHECK(names(mlp) == std::vector<std::string>{"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias",
                                                   "layers.2.weight", "layers.2.bias"});
      place(mlp);
      const auto x = draw.tensor({20, 3});
      const auto layer = [&](std::size_t i, const at::Tensor& input) {
        return at::linear(input, mlp.layers[i].weight.tensor(), mlp.layers[i].bias->tensor());
      };
      auto expected = layer(2, at::relu(layer(1, at::relu(layer(0, x)))));
      CHECK(expected.min().item<double>() < 0);
      if (final_activation == FinalActivation::relu) expected = at::relu(expected);
      CHECK(cases::difference(mlp(x), expected) <= cases::tolerance(at::kDouble));
      CHECK((mlp(x).min().item<double>() < 0) == (final_activation == FinalActivation::none));
    }
  }
  TEST_CASE("an activation of choice follows every layer but the last, another the last; layers may have no bias") {
    cases::Draw draw(5);
    const auto x = draw.tensor({20, 3});
    const std::vector<std::pair<Activation, at::Tensor (*)(const at::Tensor&)>> all{
        {Activation::none, [](const at::Tensor& y) { return y; }},
        {Activation::relu, [](const at::Tensor& y) { return y.clamp_min(0); }},
        {Activation::sigmoid, [](const at::Tensor& y) { return y.neg().exp().add(1).reciprocal(); }},
        {Activation::tanh, [](const at::Tensor& y) { return y.mul(2).expm1().div(y.mul(2).exp().add(1)); }},
        {Activation::silu, [](const at::Tensor& y) { return y.div(y.neg().exp().add(1)); }},
        {Activation::gelu, [](const at::Tensor& y) { return y.mul(y.div(std::sqrt(2.)).erf().add(1)).div(2); }}};
    for (const auto& [between, first] : all)
      for (const auto& [last, second] : all) {
        Mlp mlp(3, {5, 2}, {.activation = between, .final_activation = last, .bias = false}, at::kDouble);
        CHECK(names(mlp) == std::vector<std::string>{"layers.0.weight", "layers.1.weight"});
        place(mlp);
        const auto hidden = first(x.matmul(mlp.layers[0].weight.tensor().t()));
        CHECK(cases::difference(mlp(x), second(hidden.matmul(mlp.layers[1].weight.tensor().t()))) <= cases::tolerance(at::kDouble));
      }
    const Mlp declared{3, {5, 2}, {.activation = Activation::tanh}};
    CHECK(declared.layers[1].bias.has_value());
    CHECK(declared.between == Activation::tanh);
    CHECK(Mlp(3, {2}).between == Activation::relu);
  }
  TEST_CASE("wide layers of float32, whose products may be another library's, give what float64 gives, gradients too") {
    cases::Draw draw(6);
    for (const auto activation :
         {Activation::none, Activation::relu, Activation::sigmoid, Activation::tanh, Activation::silu, Activation::gelu})
      for (const bool bias : {true, false})
        for (const std::int64_t rows : {0, 1, 300}) {          // wide enough in some layers, in all, in none
          const MlpOptions options{.activation = activation, .final_activation = activation, .bias = bias};
          Mlp exact(120, {256, 200, 9, 256}, options, at::kDouble), mlp(120, {256, 200, 9, 256}, options);
          place(exact);
          visit_leaves(mlp, "m", [&](std::string_view name, Parameter& parameter) {
            visit_leaves(exact, "m", [&](std::string_view same, Parameter& other) {
              if (name == same) parameter.assign(other.tensor().detach().to(at::kFloat));
            });
          });
          place(mlp);
          const auto x = draw.tensor({rows, 120}).requires_grad_(), factors = draw.tensor({rows, 256});
          const auto y = x.detach().to(at::kFloat).requires_grad_();
          const auto out = mlp(y), expected = exact(x);
          CHECK(cases::difference(out, expected) <= cases::tolerance(at::kFloat));
          out.mul(factors.to(at::kFloat)).sum().backward();
          expected.mul(factors).sum().backward();
          CHECK(cases::difference(y.grad(), x.grad()) <= cases::tolerance(at::kFloat));
          for (std::size_t i = 0; i < exact.layers.size(); ++i) {
            const auto &layer = mlp.layers[i], &twin = exact.layers[i];
            CHECK(cases::difference(layer.weight.tensor().grad(), twin.weight.tensor().grad()) <= cases::tolerance(at::kFloat));
            if (bias) CHECK(cases::difference(layer.bias->tensor().grad(), twin.bias->tensor().grad()) <= cases::tolerance(at::kFloat));
          }
          if (rows == 0) continue;
          const at::NoGradGuard no_grad;
          y[0][0] = std::numeric_limits<float>::quiet_NaN();
          CHECK(mlp(y)[0].isnan().all().item<bool>());         // none is made a number of
        }
  }
  TEST_CASE("products in bfloat16 differ by its rounding, those of the last layer are not; weights and gradients stay float32") {
    cases::Draw draw(7);
    Mlp mlp(40, {64, 32, 2}, MlpOptions{.gemm = at::kBFloat16}), exact(40, {64, 32, 2});
    place(mlp);
    place(exact);
    CHECK((mlp.layers[2].gemm == at::kFloat));
    const auto x = draw.tensor({30, 40}, at::kFloat);
    const auto out = mlp(x), expected = exact(x);
    CHECK((out.scalar_type() == at::kFloat));
    CHECK(cases::difference(out, expected) <= 3e-2);
    CHECK((cases::difference(out, expected) > 0) == has_fast_bfloat16());
    out.sum().backward();
    expected.sum().backward();
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK((mlp.layers[i].weight.tensor().grad().scalar_type() == at::kFloat));
      CHECK(cases::difference(mlp.layers[i].weight.tensor().grad(), exact.layers[i].weight.tensor().grad()) <= 3e-2);
    }
    const LinearOptions of_bfloat16{.gemm = at::kBFloat16}, of_half{.gemm = at::kHalf};
    CHECK_THROWS_AS(Linear(3, 4, of_bfloat16, at::kDouble), ConfigError);
    CHECK_THROWS_AS(Linear(3, 4, of_half), ConfigError);
  }
  TEST_CASE("4.2 MLP [4, 2] filled with F") {
    Mlp mlp(3, {4, 2}, FinalActivation::none, at::kDouble);
    const std::vector<std::int64_t> widths{3, 4, 2};
    for (std::size_t i = 0; i < 2; ++i) {
      mlp.layers[i].weight.assign(cases::pattern(widths[i + 1], widths[i], 7, 3, 11, 5, 10));
      mlp.layers[i].bias->assign(cases::pattern(1, widths[i + 1], 0, 1, 3, 1, 10)[0]);
    }
    place(mlp);
    const auto x = at::tensor({1., -2., .5, 0., 3., -1.}, at::kDouble).view({2, 3});
    CHECK(cases::gap(mlp(x), {.3, 0, -.46, .9}) < 1e-12);
  }
  TEST_CASE("no layers give the input back, and a wrong input names the layer") {
    const Mlp none(3, {});
    const auto x = at::ones({2, 3});
    CHECK(none(x).is_same(x));
    Mlp mlp(3, {2});
    place(mlp);
    CHECK_THROWS_WITH_AS(mlp(at::ones({2, 4})), "Linear 'm.layers.0.weight': an input of shape [2, 4] for 3 features", ShapeError);
    CHECK_THROWS_AS(Mlp(3, {2, 0}), ConfigError);
  }
}

TEST_SUITE("modules/dot_interaction") {
  TEST_CASE("all pairs, in the order of the upper triangle") {
    const auto vectors = at::arange(1, 13, at::kDouble).view({1, 4, 3});
    const auto dot = [&](std::int64_t i, std::int64_t j) { return vectors[0][i].dot(vectors[0][j]).item<double>(); };
    const auto pairs = dot_interaction(vectors);
    CHECK(pairs.sizes() == at::IntArrayRef({1, 6}));
    const std::vector<double> expected{dot(0, 1), dot(0, 2), dot(0, 3), dot(1, 2), dot(1, 3), dot(2, 3)};
    for (std::int64_t k = 0; k < 6; ++k) CHECK(pairs[0][k].item<double>() == expected[static_cast<std::size_t>(k)]);
  }
  TEST_CASE("one vector has no pairs, no rows give none, other shapes are refused") {
    CHECK(dot_interaction(at::ones({5, 1, 3})).sizes() == at::IntArrayRef({5, 0}));
    CHECK(dot_interaction(at::ones({0, 3, 3})).sizes() == at::IntArrayRef({0, 3}));
    CHECK_THROWS_WITH_AS(dot_interaction(at::ones({2, 3})), "dot_interaction: vectors of shape [2, 3]; it must be [B, F, D]", ShapeError);
  }
}

}  // namespace rookery
