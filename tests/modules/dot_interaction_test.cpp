// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/kernels/cpu/pair_products.hpp>
#include <rookery/modules/dot_interaction.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using kernels::InstructionSet;

/// What dot_interaction gives for some vectors, and its gradient for given ones of the products.
struct Found {
  at::Tensor products, gradients;                              // [B, F * (F - 1) / 2], [B, F, D]
};
template <class Fn> Found found_by(const at::Tensor& vectors, const at::Tensor& given, Fn&& fn) {
  auto leaf = vectors.detach().clone().requires_grad_();
  auto products = fn(leaf);
  if (products.numel() > 0) products.backward(given);
  return {products.detach(), leaf.grad()};
}
double furthest(const at::Tensor& a, const at::Tensor& b) { return a.numel() == 0 ? 0 : a.sub(b).abs().max().item<double>(); }

/// As long as it lives kernels are those of another instruction set, and threads are so many.
struct Machine {
  Machine(InstructionSet set, int threads) {
    kernels::instruction_set() = set;
    at::set_num_threads(threads);
  }
  ~Machine() {
    kernels::instruction_set() = before;
    at::set_num_threads(threads_before);
  }
  InstructionSet before = kernels::instruction_set();
  int threads_before = at::get_num_threads();
};

}  // namespace

TEST_SUITE("modules/dot_interaction") {
  TEST_CASE("products and gradients are those of a batched product, the same bits on any threads and with any instructions") {
    cases::Draw draw(5);
    for (const auto dtype : {at::kDouble, at::kFloat})
      for (const auto& [rows, count, dim] : std::vector<std::array<std::int64_t, 3>>{
               {1, 2, 1}, {3, 1, 4}, {5, 27, 16}, {700, 9, 8}, {2, 17, 33}, {4, 40, 3}, {1, 5, 130}, {3, 16, 16}, {2, 33, 64}}) {
        CAPTURE(concat(rows, " x ", count, " x ", dim));
        const auto vectors = draw.tensor({rows, count, dim}, dtype), given = draw.tensor({rows, count * (count - 1) / 2}, dtype);
        const auto expected = found_by(vectors.to(at::kDouble), given.to(at::kDouble), detail::pair_products_of);
        const auto found = found_by(vectors, given, dot_interaction);
        const double allowed = (dtype == at::kFloat ? 1e-5 : 1e-13) * static_cast<double>(dim + count);
        CHECK(furthest(found.products, expected.products) <= allowed);
        if (count > 1) CHECK(furthest(found.gradients, expected.gradients) <= allowed);
        const auto best = kernels::detail::found_instruction_set();
        for (const auto set : {InstructionSet::plain, InstructionSet::avx2, InstructionSet::avx512})
          for (const int threads : {1, 2, 4}) {
            if (set > best) continue;
            const Machine other(set, threads);
            const auto same = found_by(vectors, given, dot_interaction);
            CHECK(at::equal(same.products, found.products));
            if (count > 1) CHECK(at::equal(same.gradients, found.gradients));
          }
      }
  }

  TEST_CASE("vectors that are used twice, and a graph that is gone through twice, add up; strided vectors are taken as they are") {
    cases::Draw draw(6);
    const auto given = draw.tensor({4, 3});
    const auto twice = [&](auto&& fn) {
      auto leaf = draw.tensor({3, 4, 5}).requires_grad_();
      const auto vectors = leaf.transpose(0, 1).mul(2);                                      // [4, 3, 5]
      const auto loss = fn(vectors).mul(given).sum().add(fn(leaf.transpose(0, 1)).mul(given).sum()).add(vectors.sum());
      loss.backward({}, /*retain_graph=*/true);
      loss.backward();
      return leaf.grad();
    };
    draw = cases::Draw(7);
    const auto expected = twice(detail::pair_products_of);
    draw = cases::Draw(7);
    CHECK(furthest(twice(dot_interaction), expected) < 1e-13);
  }

  TEST_CASE("gradients are differentiated where that is asked for") {
    cases::Draw draw(8);
    const auto values = draw.tensor({2, 4, 3});
    const auto second = [&](auto&& fn) {
      auto leaf = values.clone().requires_grad_();
      fn(leaf).pow(3).sum().backward({}, /*retain_graph=*/true, /*create_graph=*/true);
      const auto first = leaf.grad();
      leaf.mutable_grad() = at::Tensor();
      first.pow(2).sum().backward();
      auto found = leaf.grad();
      leaf.mutable_grad() = at::Tensor();                                // a cycle: the gradient's graph leads to the leaf
      return found;
    };
    const auto expected = second(detail::pair_products_of);
    CHECK(furthest(second(dot_interaction), expected) < 1e-11 * expected.abs().max().item<double>());
  }

  TEST_CASE("vectors that were changed in place before backward are refused; without a graph there is none") {
    auto leaf = at::ones({2, 3, 4}).requires_grad_();
    auto vectors = leaf.mul(1);
    const auto products = dot_interaction(vectors);
    vectors.detach().add_(1);
    CHECK_THROWS_WITH(products.sum().backward(), doctest::Contains("dot_interaction: its vectors were changed in place before backward"));
    const at::NoGradGuard no_grad;
    CHECK(!dot_interaction(leaf).requires_grad());
  }

  TEST_CASE("what is not finite stays in its row") {
    auto vectors = at::ones({3, 3, 2});
    vectors[1][2][0] = std::numeric_limits<float>::infinity();
    vectors[2][0][1] = std::numeric_limits<float>::quiet_NaN();
    const auto [products, gradients] = found_by(vectors, at::ones({3, 3}), dot_interaction);
    CHECK((products[0].isfinite().all().item<bool>() && gradients[0].isfinite().all().item<bool>()));
    CHECK((products[1][0].item<float>() == 2 && products[1][1].isinf().item<bool>()));
    CHECK((products[2][0].isnan().item<bool>() && products[2][2].item<float>() == 2));
  }
}

}  // namespace rookery
