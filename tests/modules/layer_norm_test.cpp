// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/layer_norm.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("modules/layer_norm") {
  TEST_CASE("values and gradients are those of torch.nn.LayerNorm") {
    LayerNorm norm(3, {.eps = 1e-3}, at::kDouble);
    CHECK(names_of(norm) == std::vector<std::string>{"weight", "bias"});
    place_alone(norm);
    norm.weight->assign(at::tensor({.5, 1., 2.}));
    norm.bias->assign(at::tensor({.1, 0., -.3}, at::kDouble));
    const auto x = pattern(4, 3, 7, 3, 11, 5, 4).set_requires_grad(true), g = pattern(4, 3, 5, 2, 7, 3, 2);
    const auto y = norm(x);
    y.mul(g).sum().backward();
    CHECK(gap(y, {-.5115575685, 0, 2.146230274, .2009411209, 1.1103523294, -2.9244691422, -.5115575685, 0, 2.146230274, .7561172856,
                  -1.1103523294, -.7037644834}) < 1e-9);
    CHECK(gap(x.grad(), {.335959078, -.6795084094, .3435493315, 1.4337456954, -.8962761897, -.5374695057, -1.3525108873, 2.7180336377,
                         -1.3655227504, -.6497323565, -1.0808138045, 1.730546161}) < 1e-9);
    CHECK(gap(norm.weight->tensor().grad(), {.7243203761, -1.6655284941, -.7688800931}) < 1e-9);
    CHECK(gap(norm.bias->tensor().grad(), {-1.5, -1, -.5}) < 1e-9);
    CHECK(gradient_gap(x, [&](const at::Tensor& at) { return norm(at).mul(g).sum(); }) < 1e-7);
  }
  TEST_CASE("without scale and shift rows have mean 0 and variance 1, in any number of dimensions") {
    LayerNorm norm(5, {.eps = 0, .affine = false}, at::kDouble);
    CHECK(names_of(norm).empty());
    const auto y = norm(pattern(6, 5, 7, 3, 11, 5, 4).view({2, 3, 5}));
    CHECK(y.sum(-1).abs().max().item<double>() < 1e-12);
    CHECK(y.square().sum(-1).sub(5).abs().max().item<double>() < 1e-12);
    CHECK(norm(at::zeros({0, 5}, at::kDouble)).sizes() == at::IntArrayRef({0, 5}));
  }
  TEST_CASE("a row of equal numbers becomes the bias") {
    LayerNorm norm(3);
    place_alone(norm);
    CHECK(at::equal(norm(at::full({2, 3}, 7.)), at::zeros({2, 3})));
  }
  TEST_CASE("4.2 DoubleNormLog: signed logarithm, clipped, beside binary columns, in LayerNorm") {
    const auto nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    const auto logarithm = [](const at::Tensor& x) {
      const auto finite = x.nan_to_num(0, 0, 0);
      return finite.sign().mul(finite.abs().log1p());
    };
    const LayerNorm norm(4, {.eps = 0, .affine = false}, at::kDouble);
    const auto continuous = at::tensor({1., -3., nan, 1e6, infinity, .5}, at::kDouble).view({2, 3});
    const auto y = norm(at::cat({logarithm(continuous).clamp(-5, 5), at::tensor({1., 0.}, at::kDouble).view({2, 1})}, 1));
    CHECK(gap(y, {.6707183, -1.5918427, -.0834687, 1.0045931, 1.7267280, -.6395386, -.4476509, -.6395386}) < 1e-5);

    BatchNorm columns(2, {.momentum = .01}, at::kDouble);
    place_alone(columns);
    const LayerNorm over(3, {.eps = 0, .affine = false}, at::kDouble);
    const auto x = at::tensor({1., -3., 7., 0., 0., 2.}, at::kDouble).view({3, 2}), binary = at::tensor({1., 0., 1.}, at::kDouble);
    const auto normed = [&] { return over(at::cat({columns(logarithm(x)).clamp(-5, 5), binary.unsqueeze(1)}, 1)); };
    CHECK(gap(normed(), {-.0952613, -1.1743325, 1.2695938, 1.4113834, -.6282467, -.7831368, -1.4107397, .7911608, .6195790}) < 1e-5);
    CHECK(gap(columns.running_mean, {.0092420, -.0009589}) < 1e-5);
    CHECK(gap(columns.running_var, {1.0012106, 1.0055059}) < 1e-5);
    const auto state = std::make_shared<detail::PassState>();
    columns.pass.connect("columns", state);
    state->training = false;
    CHECK(gap(normed(), {.5519291, -1.4035862, .8516570, 1.4142134, -.7066163, -.7075971, -1.4098136, .8014440, .6083694}) < 1e-5);
  }
  TEST_CASE("what cannot be is refused in one sentence") {
    CHECK_THROWS_WITH_AS(LayerNorm(0), "LayerNorm: 0 features, eps 1e-05; features must be positive and eps not negative", ConfigError);
    CHECK_THROWS_AS(LayerNorm(3, {.eps = -1}), ConfigError);
    LayerNorm norm(3);
    CHECK_THROWS_AS(norm(at::zeros({2, 3})), ConfigError);     // not placed
    place_alone(norm);
    CHECK_THROWS_WITH_AS(norm(at::zeros({2, 4})), "LayerNorm: an input of shape [2, 4] for 3 features", ShapeError);
    CHECK_THROWS_AS(norm(at::zeros({})), ShapeError);
  }
}

}  // namespace rookery
