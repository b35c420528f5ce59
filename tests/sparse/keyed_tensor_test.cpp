// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/keyed_tensor.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

using Integers = std::vector<std::int64_t>;
using Keys = std::vector<std::string>;

}  // namespace

TEST_SUITE("sparse/keyed_tensor") {
  TEST_CASE("columns are found by key, as views, and a missing key lists those there are") {
    const auto values = at::arange(12).view({2, 6});
    const KeyedTensor tensor(std::make_shared<KeyedColumns>(KeyedColumns{{"a", "b", "c"}, {2, 1, 3}}), values);
    CHECK(tensor.keys() == Keys{"a", "b", "c"});
    CHECK(tensor.length_per_key() == Integers{2, 1, 3});
    CHECK(tensor.offset_per_key() == Integers{0, 2, 3, 6});
    CHECK(tensor.key_dim() == 1);
    CHECK(tensor.size() == 2);
    CHECK(at::equal(tensor["a"], values.narrow(1, 0, 2)));
    CHECK(at::equal(tensor["b"], values.narrow(1, 2, 1)));
    CHECK(at::equal(tensor["c"], values.narrow(1, 3, 3)));
    CHECK(tensor["c"].is_alias_of(values));
    CHECK_THROWS_WITH_AS(tensor["d"], "KeyedTensor: no key 'd'; keys are [a, b, c]", IndexError);
    const auto columns = tensor.to_dict();
    REQUIRE(columns.size() == 3);
    CHECK(columns[2].first == "c");
    CHECK(at::equal(columns[2].second, tensor["c"]));
  }
  TEST_CASE("made of keys and widths it is checked") {
    const auto values = at::arange(12).view({2, 6});
    const KeyedTensor tensor({"a", "b", "c"}, {2, 0, 4}, values);
    CHECK(at::equal(tensor["c"], values.narrow(1, 2, 4)));
    CHECK(tensor.size() == 2);
    CHECK(tensor.contains("b"));
    CHECK(!tensor.contains("d"));
    const auto made = [&](Keys keys, Integers widths, const at::Tensor& of) { return KeyedTensor(std::move(keys), std::move(widths), of); };
    CHECK_THROWS_WITH_AS(made({"a", "a"}, {2, 4}, values), "KeyedTensor: key 'a' is given twice", ShapeError);
    CHECK_THROWS_WITH_AS(made({"a", "b"}, {6}, values), "KeyedTensor: 1 widths for 2 keys", ShapeError);
    CHECK_THROWS_WITH_AS(made({"a", "b"}, {7, -1}, values), "KeyedTensor: key 'b' has width -1", ShapeError);
    CHECK_THROWS_WITH_AS(made({"a", "b"}, {2, 3}, values), "KeyedTensor: values have shape [2, 6]; the widths [2, 3] sum to 5", ShapeError);
    CHECK_THROWS_WITH_AS(made({"a"}, {6}, {}), "KeyedTensor: values must be a tensor of two dimensions", ShapeError);
    CHECK_THROWS_AS(made({"a"}, {12}, values.flatten()), ShapeError);
  }
  TEST_CASE("A12 the values of three keys side by side") {
    const std::vector parts{at::full({3, 2}, 1), at::tensor({2, 1, 2}).expand({3, 3}), at::tensor({3, 1, 2, 3}).expand({3, 4})};
    const auto tensor = KeyedTensor::from_tensor_list({"Embedding A", "Embedding B", "Embedding C"}, parts);
    CHECK(at::equal(tensor.values(), at::tensor({1, 1, 2, 1, 2, 3, 1, 2, 3}).expand({3, 9})));
    CHECK(tensor.length_per_key() == Integers{2, 3, 4});
    CHECK(at::equal(tensor["Embedding B"], at::tensor({2, 1, 2}).expand({3, 3})));
  }
  TEST_CASE("from_tensor_list refuses what does not lie side by side; slices and moves keep the keys") {
    CHECK_THROWS_WITH_AS(KeyedTensor::from_tensor_list({"a"}, {}), "KeyedTensor: 0 tensors for 1 keys", ShapeError);
    CHECK_THROWS_WITH_AS(KeyedTensor::from_tensor_list({"a", "a"}, std::vector{at::zeros({2, 1}), at::zeros({2, 1})}),
                         "KeyedTensor: key 'a' is given twice", ShapeError);
    CHECK_THROWS_WITH_AS(KeyedTensor::from_tensor_list({"a", "b"}, std::vector{at::zeros({2, 1}), at::zeros({3, 1})}),
                         "KeyedTensor: key 'b' has shape [3, 1]; every key has two dimensions and as many rows as the first", ShapeError);
    CHECK(KeyedTensor::from_tensor_list({}, {}).size() == 0);
    CHECK(KeyedTensor().to_dict().empty());
    const auto tensor = KeyedTensor::from_tensor_list({"a", "b"}, std::vector{at::arange(3).view({3, 1}), at::zeros({3, 0}, at::kLong)});
    CHECK(at::equal(tensor.slice(1, 3)["a"], at::tensor({1, 2}).view({2, 1})));
    CHECK(tensor["b"].sizes() == at::IntArrayRef({3, 0}));
    CHECK_THROWS_WITH_AS(tensor.slice(1, 4), "KeyedTensor: rows 1 to 4 of 3", IndexError);
    CHECK(tensor.to(at::Device(at::kMeta)).values().is_meta());
    CHECK_NOTHROW(tensor.record_stream(c10::Stream(c10::Stream::DEFAULT, at::Device(at::kCPU))));
  }
}

}  // namespace rookery
