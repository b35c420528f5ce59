// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What several ranks make of it is in core/pass_test.cpp.

#include <rookery/modules/batch_norm.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <memory>
#include <string>
#include <vector>

#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("modules/batch_norm") {
  TEST_CASE("values, gradients and running statistics are those of torch.nn.BatchNorm1d") {
    BatchNorm norm(3, {.momentum = .2}, at::kDouble);
    CHECK(names_of(norm) == std::vector<std::string>{"weight", "bias", "running_mean", "running_var"});
    place_alone(norm);
    const auto state = std::make_shared<detail::PassState>();
    norm.pass.connect("norm", state);
    norm.weight->assign(at::tensor({.5, 1., 2.}));
    norm.bias->assign(at::tensor({.1, 0., -.3}, at::kDouble));
    const auto x = pattern(4, 3, 7, 3, 11, 5, 4).set_requires_grad(true), g = pattern(4, 3, 5, 2, 7, 3, 2);
    const auto y = norm(x);
    y.mul(g).sum().backward();
    CHECK(gap(y, {-.5565285421, -.7228914264, .0999948801, .3626114168, 1.5261041223, -3.0999641607, -.1626114168, .2409638088,
                  2.4999641607, .7565285421, -1.0441765047, -.6999948801}) < 1e-9);
    CHECK(gap(x.grad(), {-.3871276989, -.713039123, 2.2399651848, .6406822007, -.7793890754, -2.8799201304, .2784577582, 1.7370100735,
                         -2.720008191, -.53201226, -.244581875, 3.3599631366}) < 1e-9);
    CHECK(gap(norm.weight->tensor().grad(), {1.1817513757, -1.6867466615, -1.4999808004}) < 1e-9);
    CHECK(gap(norm.bias->tensor().grad(), {-1.5, -1, -.5}) < 1e-9);
    CHECK(gap(norm.running_mean, {0, .0125, .025}) < 1e-9);
    CHECK(gap(norm.running_var, {1.0416666667, .9614583333, .9041666667}) < 1e-9);
    const detail::Evaluating evaluating(*state);
    CHECK(gap(norm(x), {-.5123694963, -.5226685605, .1732448168, .3449477985, 1.2620533533, -1.9300654802, -.1449477985, .2422122597,
                        1.7507275396, .7123694963, -.7776288339, -.3525827574}) < 1e-9);
    CHECK(gap(norm.running_mean, {0, .0125, .025}) < 1e-9);    // evaluation leaves no trace
  }
  TEST_CASE("gradients agree with differences") {
    BatchNorm norm(3, {}, at::kDouble);
    place_alone(norm);
    const auto g = pattern(4, 3, 5, 2, 7, 3, 2);
    CHECK(gradient_gap(pattern(4, 3, 7, 3, 11, 5, 4), [&](const at::Tensor& x) { return norm(x).mul(g).sum(); }) < 1e-7);
  }
  TEST_CASE("a large mean costs no precision") {
    BatchNorm norm(3, {}, at::kDouble);
    place_alone(norm);
    const auto x = pattern(4, 3, 7, 3, 11, 5, 4);
    CHECK(norm(x.add(1e6)).sub(norm(x)).abs().max().item<double>() < 1e-8);
  }
  TEST_CASE("without scale and shift there are none") {
    BatchNorm norm(3, {.affine = false}, at::kDouble);
    CHECK(names_of(norm) == std::vector<std::string>{"running_mean", "running_var"});
    place_alone(norm);
    CHECK(norm(pattern(4, 3, 7, 3, 11, 5, 4)).sum(0).abs().max().item<double>() < 1e-12);
  }
  TEST_CASE("one row, or none, leave the running statistics as they were") {
    BatchNorm norm(2);
    place_alone(norm);
    CHECK(at::equal(norm(at::ones({1, 2})), at::zeros({1, 2})));
    CHECK(norm(at::ones({0, 2})).sizes() == at::IntArrayRef({0, 2}));
    CHECK(at::equal(norm.running_mean, at::zeros({2})));
    CHECK(at::equal(norm.running_var, at::ones({2})));
  }
  TEST_CASE("what cannot be is refused in one sentence") {
    CHECK_THROWS_WITH_AS(BatchNorm(0),
                         "BatchNorm: 0 features, eps 1e-05, momentum 0.1; features must be positive, eps not negative and momentum in "
                         "[0, 1]",
                         ConfigError);
    CHECK_THROWS_AS(BatchNorm(2, {.momentum = 1.5}), ConfigError);
    BatchNorm norm(3);
    CHECK_THROWS_AS(norm(at::ones({2, 3})), ConfigError);      // not placed
    place_alone(norm);
    CHECK_THROWS_WITH_AS(norm(at::ones({2, 4})), "BatchNorm: an input of shape [2, 4]; it must be [B, 3]", ShapeError);
    CHECK_THROWS_AS(norm(at::ones({2, 3, 3})), ShapeError);
  }
}

}  // namespace rookery
