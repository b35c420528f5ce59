// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/to_string.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sparse/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("sparse/to_string") {
  TEST_CASE("a batch is a line for each key, with its rows, and weights where there are any") {
    const auto ids = integers({7, 9, 3, 1, 2, 5});
    CHECK(to_string(KeyedJaggedTensor::from_lengths({"user", "item"}, ids, integers({2, 0, 1, 1, 2, 0}))) ==
          "KeyedJaggedTensor({\n  \"user\": [[7, 9], [], [3]],\n  \"item\": [[1], [2, 5], []]\n})");
    CHECK(to_string(KeyedJaggedTensor::from_lengths({"user"}, integers({7, 9}), integers({2, 0}), numbers({.5, 1}))) ==
          "KeyedJaggedTensor({\n  \"user\": {values: [[7, 9], []], weights: [[0.5, 1], []]}\n})");
    CHECK(to_string(KeyedJaggedTensor()) == "KeyedJaggedTensor({})");
  }
  TEST_CASE("one feature, of ids or of vectors") {
    CHECK(to_string(JaggedTensor(integers({7, 9}), integers({2, 0}))) == "JaggedTensor([[7, 9], []])");
    CHECK(to_string(JaggedTensor(at::arange(4).view({2, 2}), integers({1, 1}))) == "JaggedTensor([[[0, 1]], [[2, 3]]])");
    CHECK(to_string(JaggedTensor()) == "JaggedTensor([])");
  }
  TEST_CASE("pooled columns, numbers in the fewest digits of their dtype, also where they require gradients") {
    const KeyedTensor pooled({"a", "b"}, {2, 1}, at::full({2, 3}, .1, at::kFloat).set_requires_grad(true));
    CHECK(to_string(pooled) == "KeyedTensor({\n  \"a\": [[0.1, 0.1], [0.1, 0.1]],\n  \"b\": [[0.1], [0.1]]\n})");
    CHECK(to_string(KeyedTensor()) == "KeyedTensor({})");
  }
  TEST_CASE("much is counted, not written") {
    CHECK(to_string(JaggedTensor(at::arange(100), integers({90, 0, 10})), {.rows = 2, .entries = 3}) ==
          "JaggedTensor([[0, 1, 2, ... 87 more], [], ... 1 more])");
    CHECK(to_string(KeyedTensor({"a", "b", "c"}, {3, 3, 3}, at::zeros({4, 9})), {.keys = 1, .rows = 1, .entries = 0}) ==
          "KeyedTensor({\n  \"a\": [[... 3 more], ... 3 more],\n  ... 2 more keys\n})");
    std::vector<std::string> keys;
    for (int f = 0; f < 500; ++f) keys.push_back(concat("feature ", f));
    const auto large = KeyedJaggedTensor::from_lengths(keys, at::zeros({1'000'000}, at::kLong), at::full({500 * 100}, 20));
    CHECK(to_string(large).size() < 16 * 600);
  }
}

}  // namespace rookery
