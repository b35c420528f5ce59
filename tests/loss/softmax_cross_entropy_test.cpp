// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/loss/softmax_cross_entropy.hpp>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Output {
  at::Tensor logits;                                         // [B, C]
};
struct Batch {
  at::Tensor labels, weights;                                // [B]
};
struct Unweighted {
  at::Tensor labels;
};

}  // namespace

TEST_SUITE("loss/softmax_cross_entropy") {
  const auto logits = at::tensor({.5, -1., 2., 0., 1., -.5, 3., .25, .25, -1., -2., .75}, at::kDouble).view({4, 3});
  const auto classes = at::tensor({2, 0, 1, 2}, at::kLong);

  TEST_CASE("B8 a weight that is negative or not finite is refused with its row and value") {
    CHECK_THROWS_WITH_AS(SoftmaxCrossEntropy{}(Output{logits}, Batch{classes, at::tensor({1., -.5, 2., 0.})}),
                         "SoftmaxCrossEntropy: weight -0.5 of row 1 must be finite and not negative", DataError);
    CHECK_THROWS_WITH_AS(SoftmaxCrossEntropy{}(Output{logits}, Batch{classes, at::tensor({1., .5, NAN, 0.})}),
                         "SoftmaxCrossEntropy: weight nan of row 2 must be finite and not negative", DataError);
  }
  TEST_CASE("sums and gradients are those of torch.nn.functional.cross_entropy, weighted where there are weights") {
    const SoftmaxCrossEntropy loss;
    CHECK(std::abs(loss(Output{logits}, Unweighted{classes}).item<double>() - 4.789254596634415) < 1e-12);
    const Batch weighted{classes, at::tensor({1., .5, 2., 0.})};
    const auto x = logits.clone().set_requires_grad(true);
    const auto sum = loss(Output{x}, weighted);
    CHECK(std::abs(sum.item<double>() - 6.714132167177879) < 1e-12);
    sum.backward();
    CHECK(gap(x.grad(), {.1752903921, .0391125733, -.2144029654, -.3843880512, .3142658596, .0701221916, 1.7732764575, -1.8866382287,
                         .1133617713, 0, 0, 0}) < 1e-9);
    CHECK(gradient_gap(logits, [&](const at::Tensor& at) { return loss(Output{at}, weighted); }) < 1e-8);
    CHECK(loss.normaliser(weighted).item<double>() == 4);
    CHECK(SoftmaxCrossEntropy{DivideBy::weights}.normaliser(weighted).item<double>() == 3.5);
  }
  TEST_CASE("classes may be whole numbers of any dtype; no rows are a sum of zero over zero") {
    const SoftmaxCrossEntropy loss;
    CHECK(std::abs(loss(Output{logits}, Unweighted{classes.to(at::kFloat)}).item<double>() - 4.789254596634415) < 1e-12);
    CHECK(loss(Output{at::zeros({0, 3})}, Unweighted{at::zeros({0})}).item<double>() == 0);
    CHECK(std::isfinite(loss(Output{at::tensor({1e4, -1e4}, at::kDouble).view({1, 2})}, Unweighted{at::tensor({1}, at::kLong)})
                            .item<double>()));
  }
  TEST_CASE("what does not fit is refused in one sentence") {
    const SoftmaxCrossEntropy loss;
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Unweighted{at::tensor({2, 0, 3, 2}, at::kLong)}),
                         "SoftmaxCrossEntropy: label 3 of row 2 is none of the classes 0 to 2", DataError);
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Unweighted{at::tensor({2, -1, 1, 2}, at::kLong)}),
                         "SoftmaxCrossEntropy: label -1 of row 1 is none of the classes 0 to 2", DataError);
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Unweighted{at::tensor({2., .5, 1., 2.})}),
                         "SoftmaxCrossEntropy: label 0.5 of row 1 is none of the classes 0 to 2", DataError);
    CHECK_THROWS_AS(loss(Output{logits}, Unweighted{at::tensor({2., NAN, 1., 2.})}), DataError);
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Unweighted{at::zeros({4, 1})}),
                         "SoftmaxCrossEntropy: logits have shape [4, 3] and labels [4, 1]; they must be [B, C] and [B]", ShapeError);
    CHECK_THROWS_AS(loss(Output{logits}, Unweighted{at::zeros({3})}), ShapeError);
  }
}

}  // namespace rookery
