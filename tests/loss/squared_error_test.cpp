// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/loss/squared_error.hpp>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>
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

TEST_SUITE("loss/squared_error") {
  const auto predicted = at::tensor({.5, -1., 2., 0.}, at::kDouble), labels = at::tensor({1., 0., 2.5, -1.}, at::kDouble);

  TEST_CASE("sums and gradients are those of torch.nn.functional.mse_loss, weighted where there are weights") {
    CHECK(SquaredError{}(Output{predicted}, Unweighted{labels}).item<double>() == 2.5);
    CHECK(SquaredError{}(Output{predicted}, Batch{labels, {}}).item<double>() == 2.5);
    const Batch weighted{labels, at::tensor({1., .5, 2., 0.})};
    const auto x = predicted.clone().set_requires_grad(true);
    const auto loss = SquaredError{}(Output{x}, weighted);
    CHECK(loss.item<double>() == 1.25);
    loss.backward();
    CHECK(gap(x.grad(), {-1, -1, -2, 0}) == 0);
    CHECK(gradient_gap(predicted, [&](const at::Tensor& at) { return SquaredError{}(Output{at}, weighted); }) < 1e-8);
    CHECK(SquaredError{}.normaliser(weighted).item<double>() == 4);
    CHECK(SquaredError{DivideBy::weights}.normaliser(weighted).item<double>() == 3.5);
  }
  TEST_CASE("labels may be of another dtype; no rows are a sum of zero over zero") {
    CHECK(SquaredError{}(Output{predicted.to(at::kFloat)}, Unweighted{at::tensor({1, 0, 2, -1}, at::kLong)}).item<double>() == 2.25);
    CHECK(SquaredError{}(Output{at::zeros({0})}, Unweighted{at::zeros({0})}).item<double>() == 0);
    CHECK(SquaredError{}.normaliser(Unweighted{at::zeros({0})}).item<double>() == 0);
  }
  TEST_CASE("B8 a label that is not finite is refused with its row, one that float32 cannot hold too") {
    const auto loss = [&](double label, at::ScalarType dtype = at::kDouble) {
      return SquaredError{}(Output{predicted.to(dtype)}, Unweighted{at::tensor({1., 0., label, -1.}, at::kDouble)});
    };
    CHECK_THROWS_WITH_AS(loss(std::numeric_limits<double>::quiet_NaN()), "SquaredError: label nan of row 2 is not finite", DataError);
    CHECK_THROWS_WITH_AS(loss(std::numeric_limits<double>::infinity()), "SquaredError: label inf of row 2 is not finite", DataError);
    CHECK_THROWS_WITH_AS(loss(-1e39, at::kFloat), "SquaredError: label -inf of row 2 is not finite", DataError);
    CHECK(loss(-1e100).item<double>() > 1e199);
  }
  TEST_CASE("B8 a weight that is negative or not finite is refused with its row and value") {
    CHECK_THROWS_WITH_AS(SquaredError{}(Output{predicted}, Batch{labels, at::tensor({1., -.5, 2., 0.})}),
                         "SquaredError: weight -0.5 of row 1 must be finite and not negative", DataError);
    CHECK_THROWS_WITH_AS(
        SquaredError{}(Output{predicted}, Batch{labels, at::tensor({1., .5, 2., std::numeric_limits<double>::infinity()})}),
        "SquaredError: weight inf of row 3 must be finite and not negative", DataError);
  }
  TEST_CASE("what does not fit is refused in one sentence") {
    CHECK_THROWS_WITH_AS(SquaredError{}(Output{at::zeros({3, 1})}, Unweighted{at::zeros({3})}),
                         "SquaredError: predictions have shape [3, 1] and labels [3]", ShapeError);
    CHECK_THROWS_WITH_AS(SquaredError{}(Output{predicted}, Batch{labels, at::zeros({2})}),
                         "SquaredError: labels have shape [4] and weights [2]", ShapeError);
    CHECK_THROWS_WITH_AS(SquaredError{DivideBy::weights}.normaliser(Unweighted{labels}),
                         "SquaredError: divide_by = weights, but the batch has no weights", ConfigError);
  }
}

}  // namespace rookery
