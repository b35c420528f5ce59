// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/variable_batch.hpp>

#include <rookery/sparse/keyed_jagged_tensor.hpp>

#include <cstdint>
#include <limits>
#include <vector>

#include "sparse/cases.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace cases;

constexpr auto largest = std::numeric_limits<std::int64_t>::max();

/// Two keys of two and three rows; lengths 1, 0 and 2, 0, 1.
KeyedJaggedTensor of_rows(const VariableBatch& rows) {
  return KeyedJaggedTensor::from_lengths({"a", "b"}, integers({7, 8, 9, 10}), integers({1, 0, 2, 0, 1}), numbers({1, 2, 3, 4}), rows);
}
VariableBatch with_inverse(const Integers& indices, std::int64_t width, const Keys& keys = {"a", "b"}) {
  return {.stride_per_key = {2, 3},
          .inverse_indices = {keys, integers(indices).view({static_cast<std::int64_t>(keys.size()), width})}};
}

}  // namespace

TEST_SUITE("sparse/variable_batch") {
  TEST_CASE("A2 K1 with rows of each key and rank") {
    const auto values = integers(one_to(8));
    const auto weights = numbers({1, .5, 1.5, 1, .5, 1, 1, 1.5});
    for (const auto& rows : {VariableBatch{.stride_per_key_per_rank = {{2}, {4}}}, VariableBatch{.stride_per_key = {2, 4}},
                             VariableBatch{.stride_per_key_per_rank = {{2, 0}, {1, 3}}}}) {
      const auto batch = KeyedJaggedTensor::from_offsets({"index_0", "index_1"}, values, integers({0, 2, 2, 3, 4, 5, 8}), weights, rows);
      CHECK(batch.variable_stride_per_key());
      CHECK(batch.stride_per_key() == Integers{2, 4});
      CHECK(batch.stride() == 4);
      const auto first = batch["index_0"], second = batch["index_1"];
      CHECK(integers_of(first.lengths()) == Integers{2, 0});
      CHECK(integers_of(first.values()) == Integers{1, 2});
      CHECK(numbers_of(first.weights()) == Numbers{1, .5});
      CHECK(integers_of(second.lengths()) == Integers{1, 1, 1, 3});
      CHECK(integers_of(second.values()) == Integers{3, 4, 5, 6, 7, 8});
      CHECK(numbers_of(second.weights()) == Numbers{1.5, 1, .5, 1, 1, 1.5});
    }
  }
  TEST_CASE("A4 split, of keys without rows and of no keys, keeps the rows of the batch") {
    const auto batch = KeyedJaggedTensor::from_lengths({"a", "b", "c", "d"}, integers(one_to(10)), integers({2, 0, 1, 1, 1, 3, 0, 2}), {},
                                                       {.stride_per_key_per_rank = {{3}, {0}, {1}, {4}}});
    const auto parts = batch.split(Integers{1, 1, 2});
    REQUIRE(parts.size() == 3);
    CHECK(integers_of(parts[0].lengths()) == Integers{2, 0, 1});
    CHECK(integers_of(parts[1].lengths()).empty());
    CHECK(integers_of(parts[2].lengths()) == Integers{1, 1, 3, 0, 2});
    const auto others = batch.split(Integers{0, 3, 0, 1});
    REQUIRE(others.size() == 4);
    CHECK(others[0].keys().empty());
    CHECK(integers_of(others[1].lengths()) == Integers{2, 0, 1, 1});
    CHECK(others[2].keys().empty());
    CHECK(integers_of(others[3].lengths()) == Integers{1, 3, 0, 2});
    CHECK(integers_of(others[3].values()) == Integers{5, 6, 7, 8, 9, 10});
    for (const auto* all : {&parts, &others})
      for (const auto& part : *all) CHECK(part.stride() == 4);
  }
  TEST_CASE("A7 permute") {
    const auto batch = KeyedJaggedTensor::from_lengths({"index_0", "index_1", "index_2"}, integers(one_to(8)),
                                                       integers({1, 0, 1, 3, 0, 1, 0, 2, 0}), {}, {.stride_per_key = {2, 4, 3}});
    const auto permuted = batch.permute(Integers{1, 0, 2});
    CHECK(permuted.keys() == Keys{"index_1", "index_0", "index_2"});
    CHECK(permuted.offset_per_key() == Integers{0, 5, 6, 8});
    CHECK(permuted.stride_per_key() == Integers{4, 2, 3});
    CHECK(integers_of(permuted.values()) == Integers{2, 3, 4, 5, 6, 1, 7, 8});
    CHECK(integers_of(permuted.lengths()) == Integers{1, 3, 0, 1, 1, 0, 0, 2, 0});
    CHECK(permuted.permute(Integers{1, 1}).stride_per_key() == Integers{2, 2});
  }
  TEST_CASE("A11 the stride is the width of the inverse indices, and every operation keeps them") {
    const auto batch = of_rows(with_inverse({0, 1, 0, 2, 0, 0}, 3));
    CHECK(batch.stride() == 3);
    CHECK(of_rows({.stride_per_key = {2, 3}}).stride() == 3);
    CHECK(of_rows(with_inverse({0, 1, 0, 1, 2, 0, 0, 2}, 4)).stride() == 4);
    CHECK(integers_of(batch.inverse_indices()) == Integers{0, 1, 0, 2, 0, 0});
    CHECK(integers_of(of_rows(with_inverse({2, 0, 0, 0, 1, 0}, 3, {"b", "a"})).inverse_indices()) == Integers{0, 1, 0, 2, 0, 0});
    CHECK(integers_of(batch.permute(Integers{1, 0}).inverse_indices()) == Integers{2, 0, 0, 0, 1, 0});
    CHECK(integers_of(batch.split(Integers{1, 1})[1].inverse_indices()) == Integers{2, 0, 0});
    CHECK(KeyedJaggedTensor::empty_like(batch).stride() == 3);
    CHECK(batch.to(at::Device(at::kMeta)).inverse_indices().is_meta());
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {2, 3}}).inverse_indices(),
                         "KeyedJaggedTensor: inverse_indices() asked of a batch without them", ShapeError);
  }
  TEST_CASE("expanded writes repeated rows out, and gradients of weights add up") {
    const auto weights = numbers({1, 2, 3, 4}).set_requires_grad(true);
    const auto batch = KeyedJaggedTensor::from_lengths({"a", "b"}, integers({7, 8, 9, 10}), integers({1, 0, 2, 0, 1}), weights,
                                                       with_inverse({0, 1, 0, 2, 0, 0}, 3));
    const auto whole = batch.expanded();
    CHECK(!whole.variable_stride_per_key());
    CHECK(whole.stride() == 3);
    CHECK(integers_of(whole.lengths()) == Integers{1, 0, 1, 1, 2, 2});
    CHECK(integers_of(whole.values()) == Integers{7, 7, 10, 8, 9, 8, 9});
    whole.weights().sum().backward();
    CHECK(numbers_of(weights.grad()) == Numbers{2, 2, 2, 1});
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {2, 3}}).expanded(),
                         "KeyedJaggedTensor: keys have [2, 3] rows and no inverse indices to say which belong together", ShapeError);
    CHECK_THROWS_AS(of_rows({.stride_per_key = {2, 3}}).slice(0, 1), ShapeError);
    CHECK(integers_of(batch.slice(1, 3).lengths()) == Integers{0, 1, 2, 2});
  }
  TEST_CASE("concat joins batches of rows per key, or of inverse indices, and nothing mixed") {
    const auto named = of_rows(with_inverse({0, 1, 0, 2, 0, 0}, 3)), plain = of_rows({.stride_per_key = {2, 3}});
    const auto parts = plain.split(Integers{1, 1});
    CHECK(KeyedJaggedTensor::concat(parts).stride_per_key() == Integers{2, 3});
    const auto longer = KeyedJaggedTensor::from_lengths({"c"}, integers({}), integers({0, 0, 0, 0}), numbers({}), {.stride_per_key = {4}});
    CHECK(KeyedJaggedTensor::concat(std::vector{plain, longer}).stride() == 4);
    const auto even = KeyedJaggedTensor::from_lengths({"d"}, integers({}), integers({0, 0, 0}), numbers({}));
    for (const auto& other : {named.split(Integers{1, 1})[0], even})
      CHECK_THROWS_WITH_AS(KeyedJaggedTensor::concat(std::vector{plain, other}),
                           "KeyedJaggedTensor: concat of batches with and without rows per key, or inverse indices", ShapeError);
    const auto wider = of_rows(with_inverse({0, 1, 0, 1, 2, 0, 0, 2}, 4));
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::concat(std::vector{named, wider}), "KeyedJaggedTensor: concat of batches of 3 and 4 rows",
                         ShapeError);
  }
  TEST_CASE("B2 rows and inverse indices that do not fit are refused in a sentence") {
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {2, 2}}),
                         "KeyedJaggedTensor: lengths has 5 entries; the rows of the keys, [2, 2], sum to 4", ShapeError);
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {6, -1}}), "KeyedJaggedTensor: key 'a' has 6 rows, with 5 lengths", ShapeError);
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {5, -1}}), "KeyedJaggedTensor: key 'b' has -1 rows, with 5 lengths", ShapeError);
    CHECK_THROWS_AS(of_rows({.stride_per_key = {largest, largest}}), ShapeError);
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {5}}), "KeyedJaggedTensor: rows of 1 keys for 2 keys", ShapeError);
    CHECK_THROWS_WITH_AS(of_rows({}), "KeyedJaggedTensor: rows of 0 keys for 2 keys", ShapeError);
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {2, 3}, .stride_per_key_per_rank = {{2}, {3}}}),
                         "KeyedJaggedTensor: rows are given per key and per key and rank; give one of the two", ShapeError);
    CHECK_THROWS_WITH_AS(of_rows(with_inverse({0, 2, 0, 2, 0, 0}, 3)),
                         "KeyedJaggedTensor: inverse index 2 at row 1 of key 'a', which has 2 rows", IndexError);
    CHECK_THROWS_WITH_AS(of_rows(with_inverse({0, 1, 0, 2, 0, -1}, 3)),
                         "KeyedJaggedTensor: inverse index -1 at row 2 of key 'b', which has 3 rows", IndexError);
    CHECK_THROWS_WITH_AS(of_rows(with_inverse({0, 1, 0, 2, 0, 0}, 3, {"a", "c"})),
                         "KeyedJaggedTensor: no inverse indices of key 'b'; there are those of [a, c]", IndexError);
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {2, 3}, .inverse_indices = {{"a", "b"}, integers({0, 1})}}),
                         "KeyedJaggedTensor: inverse indices of shape [2] for 2 keys", ShapeError);
    CHECK_THROWS_WITH_AS(of_rows({.stride_per_key = {2, 3}, .inverse_indices = {{"a", "b"}, numbers({0, 1}).view({2, 1})}}),
                         "KeyedJaggedTensor: inverse indices has dtype Double; it must be int64 or int32", ShapeError);
  }
  TEST_CASE("B2 a random batch with one number changed is refused unless it is still valid") {
    int refused = 0, valid = 0;
    for (std::uint64_t seed = 0; seed < 2000; ++seed) {
      CAPTURE(seed);
      Draw draw(seed);
      Integers strides(static_cast<std::size_t>(draw.integer(1, 3))), lengths, inverse;
      Keys keys;
      std::int64_t values = 0;
      const auto width = draw.integer(1, 3);
      for (auto& stride : strides) {
        keys.push_back(concat("f", keys.size()));
        stride = draw.integer(1, 3);
        for (std::int64_t b = 0; b < stride; ++b) values += lengths.emplace_back(draw.integer(0, 2));
        for (std::int64_t b = 0; b < width; ++b) inverse.push_back(draw.integer(0, stride - 1));
      }
      auto& changed = *draw.one_of(std::vector<Integers*>{&strides, &lengths, &inverse});
      auto& entry = changed[static_cast<std::size_t>(draw.integer(0, static_cast<std::int64_t>(changed.size()) - 1))];
      entry = draw.chance(.7) ? draw.integer(-1, 3) : draw.one_of(Integers{largest, -largest - 1, std::int64_t{1} << 32});

      std::int64_t rows = 0;                                       // what a reader of the rules would say
      bool holds = true;
      for (std::size_t f = 0; f < strides.size() && holds; ++f) {
        holds = strides[f] >= 0 && strides[f] <= 100;
        if (holds) rows += strides[f];
        for (std::int64_t b = 0; b < width; ++b) {
          const auto index = inverse[f * static_cast<std::size_t>(width) + static_cast<std::size_t>(b)];
          holds = holds && index >= 0 && index < strides[f];
        }
      }
      std::int64_t ids = 0;
      for (const auto length : lengths) {
        holds = holds && length >= 0 && length <= 100;
        if (holds) ids += length;
      }
      holds = holds && rows == static_cast<std::int64_t>(lengths.size()) && ids == values;

      const auto indices = integers(inverse).view({static_cast<std::int64_t>(keys.size()), width});
      try {
        const auto batch = KeyedJaggedTensor::from_lengths(keys, integers(one_to(values)), integers(lengths), {},
                                                           {.stride_per_key = strides, .inverse_indices = {keys, indices}});
        CHECK(holds);
        CHECK(batch.expanded().stride() == width);
        ++valid;
      } catch (const Error&) {
        CHECK(!holds);
        ++refused;
      }
    }
    CHECK(valid > 200);
    CHECK(refused > 1000);
  }
  TEST_CASE("B3 batches of rows per key with nothing in them") {
    const auto none = KeyedJaggedTensor::from_lengths({}, integers({}), integers({}), {}, VariableBatch{});
    CHECK(none.variable_stride_per_key());
    CHECK(none.stride() == 0);
    CHECK(none.expanded().keys().empty());
    const auto no_rows = KeyedJaggedTensor::from_lengths({"a", "b"}, integers({}), integers({}), {}, {.stride_per_key = {0, 0}});
    CHECK(no_rows["b"].size() == 0);
    CHECK(no_rows.slice(0, 0).stride() == 0);
    const VariableBatch rows{.stride_per_key = {1}, .inverse_indices = {{"a"}, integers({}).view({1, 0})}};
    const auto unused = KeyedJaggedTensor::from_lengths({"a"}, integers({4}), integers({1}), {}, rows);
    CHECK(unused.stride() == 0);
    CHECK(unused.expanded().values().numel() == 0);
  }
}

}  // namespace rookery
