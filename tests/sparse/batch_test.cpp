// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/batch.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <string_view>
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
  JaggedTensor history;
  KeyedTensor pooled;
  std::vector<Side> sides;
  int note = 3;
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &Batch::dense, "labels", &Batch::labels, "ids", &Batch::ids, "history",
                            &Batch::history, "pooled", &Batch::pooled, "sides", &Batch::sides, "note",
                            &Batch::note);
  }
};

Batch make() {
  return {at::arange(12, at::kDouble).view({4, 3}),
          at::arange(4),
          KeyedJaggedTensor::from_lengths({"a"}, at::arange(6), at::tensor({2, 0, 3, 1}, at::kLong), at::arange(6, at::kFloat)),
          JaggedTensor(at::arange(10).view({5, 2}), at::tensor({1, 3, 0, 1}, at::kLong)),
          KeyedTensor::from_tensor_list({"a", "b"}, std::vector{at::arange(8).view({4, 2}), at::arange(4).view({4, 1})}),
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
    CHECK(at::equal(part.history.values(), at::arange(2, 8).view({3, 2})));
    CHECK(part.history.size() == 2);
    CHECK(at::equal(part.pooled["b"], at::arange(1, 3).view({2, 1})));
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
    auto longer = make(), jagged = make(), history = make(), pooled = make(), nested = make(), scalar = make();
    longer.labels = at::arange(5);
    CHECK_THROWS_WITH_AS(slice(longer, 1, 3), "slice: 'labels' has shape [5], but the batch has 4 rows", ShapeError);
    jagged.ids = jagged.ids.slice(0, 3);
    CHECK_THROWS_WITH_AS(slice(jagged, 1, 3), "slice: 'ids' has 3 rows, but the batch has 4", ShapeError);
    history.history = history.history.slice(0, 2);
    CHECK_THROWS_WITH_AS(slice(history, 1, 3), "slice: 'history' has 2 rows, but the batch has 4", ShapeError);
    pooled.pooled = pooled.pooled.slice(0, 1);
    CHECK_THROWS_WITH_AS(slice(pooled, 1, 3), "slice: 'pooled' has 1 rows, but the batch has 4", ShapeError);
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
    CHECK(moved.history.values().is_meta());
    CHECK(moved.history.lengths().is_cpu());
    CHECK(moved.pooled.values().is_meta());
    CHECK(moved.note == 5);
    CHECK(at::equal(to(batch, at::kCPU).dense, batch.dense));
  }
  TEST_CASE("a batch whose keys differ in their rows is sliced by the rows that its inverse indices name") {
    auto batch = make();
    batch.ids = KeyedJaggedTensor::from_lengths({"a"}, at::arange(3), at::tensor({2, 1}, at::kLong), {},
                                                {.stride_per_key = {2}, .inverse_indices = {{"a"}, at::tensor({0, 1, 1, 0}).view({1, 4})}});
    CHECK(at::equal(slice(batch, 1, 4).ids.values(), at::tensor({2, 2, 0, 1})));
    batch.ids = KeyedJaggedTensor::from_lengths({"a"}, at::arange(3), at::tensor({2, 1}, at::kLong), {}, {.stride_per_key = {2}});
    CHECK_THROWS_WITH_AS(slice(batch, 1, 4), "slice: 'ids' has 2 rows, but the batch has 4", ShapeError);
  }
  TEST_CASE("the host has no streams; pinning gives the same batch in pinned memory, or LibTorch says that nothing could use it") {
    const auto batch = make();
    CHECK_NOTHROW(record_stream(batch, c10::Stream(c10::Stream::DEFAULT, at::Device(at::kCPU))));
    try {
      const auto pinned = pin_memory(batch);
      for (const auto& tensor : {pinned.dense, pinned.ids.values(), pinned.ids.weights(), pinned.history.values(), pinned.pooled.values(),
                                 pinned.sides[0].ages})
        CHECK(tensor.is_pinned());
      CHECK(at::equal(pinned.ids.values(), batch.ids.values()));
      CHECK(!pinned.sides[0].unused.defined());
    } catch (const c10::Error& error) {
      CHECK(!std::string_view(error.what_without_backtrace()).empty());
    }
  }
}

}  // namespace rookery
