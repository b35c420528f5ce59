// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/batch.hpp>

#include <rookery/sparse/keyed_tensor.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

struct Side {
  at::Tensor ages, unused;
  static constexpr auto members() { return rookery::members("ages", &Side::ages, "unused", &Side::unused); }
};
struct Batch {
  at::Tensor dense, labels;
  KeyedJaggedTensor ids;
  std::vector<Side> sides;
  int note = 3;
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &Batch::dense, "labels", &Batch::labels, "ids", &Batch::ids, "sides", &Batch::sides, "note",
                            &Batch::note);
  }
};

Batch make() {
  return {at::arange(12, at::kDouble).view({4, 3}),
          at::arange(4),
          KeyedJaggedTensor::from_lengths({"a"}, at::arange(6), at::tensor({2, 0, 3, 1}, at::kLong), at::arange(6, at::kFloat)),
          {{at::arange(10, 14), {}}},
          5};
}

}  // namespace

TEST_SUITE("sparse/batch") {
  TEST_CASE("slice cuts every tensor and jagged member, nested ones too, and leaves the rest") {
    const auto batch = make();
    const auto part = slice(batch, 1, 3);
    CHECK(at::equal(part.dense, batch.dense.narrow(0, 1, 2)));
    CHECK(at::equal(part.labels, at::arange(1, 3)));
    CHECK(part.ids.stride() == 2);
    CHECK(at::equal(part.ids.values(), at::arange(2, 5)));
    CHECK(at::equal(part.ids.weights(), at::arange(2, 5, at::kFloat)));
    CHECK(at::equal(part.sides[0].ages, at::arange(11, 13)));
    CHECK(!part.sides[0].unused.defined());
    CHECK(part.note == 5);
    CHECK(batch.labels.size(0) == 4);
  }
  TEST_CASE("an empty slice has no rows, and slices in order are the batch") {
    const auto batch = make();
    const auto none = slice(batch, 2, 2);
    CHECK(none.dense.sizes() == at::IntArrayRef({0, 3}));
    CHECK(none.ids.stride() == 0);
    CHECK(at::equal(at::cat({slice(batch, 0, 1).labels, none.labels, slice(batch, 1, 4).labels}), batch.labels));
    CHECK_THROWS_WITH_AS(slice(batch, 2, 5), "slice: rows 2 to 5 of a batch of 4", IndexError);
    CHECK_THROWS_AS(slice(batch, -1, 2), IndexError);
    CHECK_THROWS_AS(slice(batch, 2, 1), IndexError);
  }
  TEST_CASE("a member of another number of rows than the batch is refused by name") {
    auto longer = make(), jagged = make(), nested = make(), scalar = make();
    longer.labels = at::arange(5);
    CHECK_THROWS_WITH_AS(slice(longer, 1, 3), "slice: 'labels' has shape [5], but the batch has 4 rows", ShapeError);
    jagged.ids = jagged.ids.slice(0, 3);
    CHECK_THROWS_WITH_AS(slice(jagged, 1, 3), "slice: 'ids' has 3 rows, but the batch has 4", ShapeError);
    nested.sides[0].ages = at::arange(3);
    CHECK_THROWS_WITH_AS(slice(nested, 1, 3), "slice: 'sides.0.ages' has shape [3], but the batch has 4 rows", ShapeError);
    scalar.labels = make().labels.sum();                         // []
    CHECK_THROWS_WITH_AS(slice(scalar, 0, 0), "slice: 'labels' has shape [], but the batch has 4 rows", ShapeError);
  }
  TEST_CASE("to moves every tensor; lengths of jagged members stay on the host") {
    const auto batch = make();
    const auto moved = to(batch, at::Device(at::kMeta));
    CHECK(moved.dense.is_meta());
    CHECK(moved.sides[0].ages.is_meta());
    CHECK(!moved.sides[0].unused.defined());
    CHECK(moved.ids.values().is_meta());
    CHECK(moved.ids.lengths().is_cpu());
    CHECK(moved.note == 5);
    CHECK(at::equal(to(batch, at::kCPU).dense, batch.dense));
  }
}

TEST_SUITE("sparse/keyed_tensor") {
  TEST_CASE("columns are found by key, as views, and a missing key lists those there are") {
    const auto values = at::arange(12).view({2, 6});
    const KeyedTensor tensor(std::make_shared<KeyedColumns>(KeyedColumns{{"a", "b", "c"}, {2, 1, 3}}), values);
    CHECK(tensor.keys() == std::vector<std::string>{"a", "b", "c"});
    CHECK(tensor.length_per_key() == std::vector<std::int64_t>{2, 1, 3});
    CHECK(at::equal(tensor["a"], values.narrow(1, 0, 2)));
    CHECK(at::equal(tensor["b"], values.narrow(1, 2, 1)));
    CHECK(at::equal(tensor["c"], values.narrow(1, 3, 3)));
    CHECK(tensor["c"].is_alias_of(values));
    CHECK_THROWS_WITH_AS(tensor["d"], "KeyedTensor: no key 'd'; keys are [a, b, c]", IndexError);
  }
  TEST_CASE("A12 the values of three keys side by side") {
    const auto row = at::tensor({1, 1, 2, 1, 2, 3, 1, 2, 3});
    const KeyedTensor tensor(std::make_shared<KeyedColumns>(KeyedColumns{{"Embedding A", "Embedding B", "Embedding C"}, {2, 3, 4}}),
                             row.expand({3, 9}));
    CHECK(at::equal(tensor["Embedding B"], at::tensor({2, 1, 2}).expand({3, 3})));
  }
}

}  // namespace rookery
