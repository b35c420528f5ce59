// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/modules/cross_net.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

at::Tensor small_bias() { return pattern(1, 3, 1, 3, 5, 2, 10)[0]; }               // [3]
/// The values, and the gradients of the sum of their squares.
template <class Net> void check_net(const Net& net, const std::vector<double>& values, const std::vector<double>& gradients) {
  const auto x = pattern(2, 3, 3, 5, 7, 3, 4).set_requires_grad(true);
  const auto y = net(x);
  CHECK(gap(y, values) < 1e-9);
  y.square().sum().backward();
  CHECK(gap(x.grad(), gradients) < 1e-9);
  CHECK(net(at::zeros({0, 3}, at::kDouble)).sizes() == at::IntArrayRef({0, 3}));
}

}  // namespace

TEST_SUITE("modules/cross_net") {
  TEST_CASE("full rank: x0 * (W x + b) + x") {
    CrossNet net(3, 2, at::kDouble);
    CHECK(names_of(net) == std::vector<std::string>{"kernels.0", "kernels.1", "bias.0", "bias.1"});
    place_alone(net);
    for (std::size_t l = 0; l < 2; ++l) {
      net.kernels[l].assign(pattern(3, 3, 7 + static_cast<std::int64_t>(l), 3, 11, 5, 10));
      net.bias[l].assign(small_bias());
    }
    check_net(net, {-.86859375, .3790625, 0, 0, -.354375, .39375},
              {-3.4122275391, -.2296109375, .1843404297, .1113328125, -.293540625, .012403125});
    CHECK(gap(net.kernels[0].tensor().grad(), {-1.2796391602, .8530927734, 0, -.1155058594, -.1001835938, .26578125, 0, -.1579921875,
                                               .2369882813}) < 1e-9);
    CHECK(gap(net.bias[1].tensor().grad(), {1.302890625, .7334375, .590625}) < 1e-9);
  }
  TEST_CASE("low rank: x0 * (W V x + b) + x") {
    LowRankCrossNet net(3, 2, 2, at::kDouble);
    CHECK(names_of(net) ==
          std::vector<std::string>{"W_kernels.0", "W_kernels.1", "V_kernels.0", "V_kernels.1", "bias.0", "bias.1"});
    place_alone(net);
    for (std::size_t l = 0; l < 2; ++l) {
      net.W_kernels[l].assign(pattern(3, 2, 7 + static_cast<std::int64_t>(l), 3, 11, 5, 10));
      net.V_kernels[l].assign(pattern(2, 3, 3 + static_cast<std::int64_t>(l), 5, 13, 6, 10));
      net.bias[l].assign(small_bias());
    }
    check_net(net, {-.143896875, .6768875, 0, 0, -.64530625, .410653125},
              {-.1384347358, 1.7174444149, .0437175385, -.1822202868, -1.6369389418, .3128780355});
    CHECK(gap(net.V_kernels[0].tensor().grad(), {-.0167015068, .0161433109, -.0075134596, -.2003704482, -.0716236057, .3078058567}) <
          1e-9);
  }
  TEST_CASE("one vector: x0 <w, x> + b + x") {
    VectorCrossNet net(3, 2, at::kDouble);
    CHECK(names_of(net) == std::vector<std::string>{"kernels.0", "kernels.1", "bias.0", "bias.1"});
    place_alone(net);
    for (std::size_t l = 0; l < 2; ++l) {
      net.kernels[l].assign(pattern(2, 3, 7, 3, 11, 5, 10)[static_cast<std::int64_t>(l)]);
      net.bias[l].assign(small_bias());
    }
    check_net(net, {-1.481875, .92125, -.2, -.4, -.1284375, .29265625},
              {-5.2027078125, 3.9704523438, -1.4337570313, -.5411041016, .1050462891, .2142505859});
    CHECK(gap(net.kernels[1].tensor().grad(), {-3.7488066406, 2.0421279297, .1288920898}) < 1e-9);
  }
  TEST_CASE("full rank with W = V U^T is low rank, and with equal rows it is the vector form but for where the bias stands") {
    CrossNet full(3, 1, at::kDouble);
    LowRankCrossNet low(3, 1, 2, at::kDouble);
    VectorCrossNet vector(3, 1, at::kDouble);
    place_alone(full);
    place_alone(low);
    place_alone(vector);
    const auto x = pattern(5, 3, 3, 5, 7, 3, 4);
    full.kernels[0].assign(low.W_kernels[0].tensor().matmul(low.V_kernels[0].tensor()));
    CHECK(full(x).sub(low(x)).abs().max().item<double>() < 1e-12);
    full.kernels[0].assign(vector.kernels[0].tensor().expand({3, 3}));
    CHECK(full(x).sub(vector(x)).abs().max().item<double>() < 1e-12);
    for (const auto& net : std::vector<std::function<at::Tensor(const at::Tensor&)>>{full, low, vector})
      CHECK(gradient_gap(x, [&](const at::Tensor& at) { return net(at).square().sum(); }) < 1e-6);
  }
  TEST_CASE("kernels start Xavier normal, biases at zero") {
    CrossNet net(200, 1);
    place_alone(net);
    CHECK(std::abs(net.kernels[0].tensor().std().item<double>() - std::sqrt(2. / 400)) < .001);
    CHECK(at::equal(net.bias[0].tensor(), at::zeros({200})));
  }
  TEST_CASE("what cannot be is refused in one sentence") {
    CHECK_THROWS_WITH_AS(CrossNet(0, 1), "CrossNet: 0 features, 1 layers; both must be positive", ConfigError);
    CHECK_THROWS_WITH_AS(VectorCrossNet(3, 0), "VectorCrossNet: 3 features, 0 layers; both must be positive", ConfigError);
    CHECK_THROWS_WITH_AS(LowRankCrossNet(3, 1, 0), "LowRankCrossNet: rank 0; it must be positive", ConfigError);
    CrossNet net(3, 1);
    CHECK_THROWS_AS(net(at::ones({2, 3})), ConfigError);       // not placed
    place_alone(net);
    CHECK_THROWS_WITH_AS(net(at::ones({2, 4})), "CrossNet: an input of shape [2, 4]; it must be [B, 3]", ShapeError);
  }
}

}  // namespace rookery
