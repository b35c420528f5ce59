// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/loss/mse.hpp>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Output {
  at::Tensor predictions;                                    // [B]
};
struct Batch {
  at::Tensor labels, weights;                                // [B]
};
struct Unweighted {
  at::Tensor labels;
};

}  // namespace

TEST_SUITE("loss/mse") {
  const auto predicted = at::tensor({.5, -1., 2., 0.}, at::kDouble), labels = at::tensor({1., 0., 2.5, -1.}, at::kDouble);

  TEST_CASE("sums and gradients are those of torch.nn.functional.mse_loss, weighted where there are weights") {
    CHECK(Mse{}(Output{predicted}, Unweighted{labels}).item<double>() == 2.5);
    CHECK(Mse{}(Output{predicted}, Batch{labels, {}}).item<double>() == 2.5);
    const Batch weighted{labels, at::tensor({1., .5, 2., 0.})};
    const auto x = predicted.clone().set_requires_grad(true);
    const auto loss = Mse{}(Output{x}, weighted);
    CHECK(loss.item<double>() == 1.25);
    loss.backward();
    CHECK(gap(x.grad(), {-1, -1, -2, 0}) == 0);
    CHECK(gradient_gap(predicted, [&](const at::Tensor& at) { return Mse{}(Output{at}, weighted); }) < 1e-8);
    CHECK(Mse{}.normaliser(weighted).item<double>() == 4);
    CHECK(Mse{DivideBy::weights}.normaliser(weighted).item<double>() == 3.5);
  }
  TEST_CASE("labels may be of another dtype; no rows are a sum of zero over zero") {
    CHECK(Mse{}(Output{predicted.to(at::kFloat)}, Unweighted{at::tensor({1, 0, 2, -1}, at::kLong)}).item<double>() == 2.25);
    CHECK(Mse{}(Output{at::zeros({0})}, Unweighted{at::zeros({0})}).item<double>() == 0);
    CHECK(Mse{}.normaliser(Unweighted{at::zeros({0})}).item<double>() == 0);
  }
  TEST_CASE("what does not fit is refused in one sentence") {
    CHECK_THROWS_WITH_AS(Mse{}(Output{at::zeros({3, 1})}, Unweighted{at::zeros({3})}), "Mse: predictions have shape [3, 1] and labels [3]",
                         ShapeError);
    CHECK_THROWS_WITH_AS(Mse{}(Output{predicted}, Batch{labels, at::zeros({2})}), "Mse: labels have shape [4] and weights [2]", ShapeError);
    CHECK_THROWS_WITH_AS(Mse{DivideBy::weights}.normaliser(Unweighted{labels}), "Mse: divide_by = weights, but the batch has no weights",
                         ConfigError);
  }
}

}  // namespace rookery
