// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Every operator against LibTorch's own function of that name, and both names in one file.

#include <ATen/core/Reduction.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/triu_indices.h>

#include <vector>

#include <rookery/core/at.hpp>
#include <rookery/core/operators.hpp>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("core/operators") {
  TEST_CASE("new tensors have the shape, the numbers and the options asked for") {
    const auto like = at::rand({2}, at::kDouble);
    CHECK(ops::empty({2, 3}, at::kHalf).sizes() == at::IntArrayRef({2, 3}));
    CHECK((ops::empty({2, 3}, at::kHalf).scalar_type() == at::kHalf));
    CHECK((ops::zeros({2}, like.options()).scalar_type() == at::kDouble));
    CHECK(ops::zeros({3}).eq(0).all().item<bool>());
    CHECK((ops::ones({3}).scalar_type() == at::kFloat));
    CHECK(ops::ones({3}, at::kLong).sum().item<double>() == 3);
    CHECK(ops::full({2, 2}, 2.5, at::kDouble).sum().item<double>() == 10);
    CHECK(ops::scalar_tensor(7, at::kInt).dim() == 0);
    CHECK(ops::scalar_tensor(7, at::kInt).item<int>() == 7);
    CHECK(at::equal(ops::triu_indices(4, 4, 1, at::kCPU), at::triu_indices(4, 4, 1)));
  }

  TEST_CASE("what is computed is LibTorch's to the last bit") {
    const auto x = at::rand({5, 3}), w = at::rand({4, 3}), b = at::rand({4}), y = at::rand({5, 3});
    const auto scale = at::rand({3}), shift = at::rand({3}), mean = at::rand({3}), variance = at::rand({3});
    CHECK(at::equal(ops::cat({x, y}, 1), at::cat({x, y}, 1)));
    CHECK(at::equal(ops::stack({x, y}, 1), at::stack({x, y}, 1)));
    CHECK(at::equal(ops::linear(x, w, b), at::linear(x, w, b)));
    CHECK(at::equal(ops::linear(x, w), at::linear(x, w)));
    CHECK(at::equal(ops::silu(x), at::silu(x)));
    CHECK(at::equal(ops::gelu(x), at::gelu(x)));
    CHECK(at::equal(ops::layer_norm(x, {3}, scale, shift, 1e-5), at::layer_norm(x, {3}, scale, shift, 1e-5)));
    CHECK(at::equal(ops::batch_norm(x, scale, shift, mean, variance, false, .1, 1e-5, false),
                    at::batch_norm(x, scale, shift, mean, variance, false, .1, 1e-5, false)));
    CHECK(at::equal(ops::binary_cross_entropy_with_logits(x, y, {}, scale, at::Reduction::Sum),
                    at::binary_cross_entropy_with_logits(x, y, {}, scale, at::Reduction::Sum)));
  }

  TEST_CASE("at:: has the names that ATen/ops was not included for, and LibTorch's own go before ours") {
    CHECK((at::empty({2}, at::kLong).scalar_type() == at::kLong));
    CHECK(at::zeros({2}).sum().item<double>() + at::ones({2}).sum().item<double>() + at::full({1}, 3).sum().item<double>() == 5);
    CHECK(at::scalar_tensor(1.5, at::kDouble).item<double>() == 1.5);
    CHECK(at::cat(std::vector<at::Tensor>{at::ones({1}), at::ones({2})}).numel() == 3);
  }
}

}  // namespace rookery
