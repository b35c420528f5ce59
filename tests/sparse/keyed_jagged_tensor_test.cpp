// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/keyed_jagged_tensor.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "sparse/cases.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace cases;

const Numbers k1_weights{1, .5, 1.5, 1, .5, 1, 1, 1.5};

/// The base case K1 of torchrec's tests.
KeyedJaggedTensor k1() {
  return KeyedJaggedTensor::from_offsets({"index_0", "index_1"}, integers(one_to(8)), integers({0, 2, 2, 3, 4, 5, 8}), numbers(k1_weights));
}
void check_same(const KeyedJaggedTensor& a, const KeyedJaggedTensor& b) {
  CHECK(a.keys() == b.keys());
  CHECK(a.stride() == b.stride());
  CHECK(at::equal(a.values(), b.values()));
  CHECK(at::equal(a.lengths(), b.lengths()));
  CHECK(at::equal(a.offsets(), b.offsets()));
  CHECK(a.is_weighted() == b.is_weighted());
  if (a.is_weighted() && b.is_weighted()) CHECK(at::equal(a.weights(), b.weights()));
}

/// Two keys, two rows, five values: offsets of one entry each are broken below.
KeyedJaggedTensor from_offsets(const Integers& offsets, std::int64_t values = 5, const Keys& keys = {"f1", "f2"}) {
  return KeyedJaggedTensor::from_offsets(keys, integers(one_to(values)), integers(offsets));
}
KeyedJaggedTensor from_lengths(const Integers& lengths, std::int64_t values = 5, const Keys& keys = {"f1", "f2"}) {
  return KeyedJaggedTensor::from_lengths(keys, integers(one_to(values)), integers(lengths));
}
constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();

}  // namespace

TEST_SUITE("sparse/keyed_jagged_tensor") {
  TEST_CASE("A1 K1's parts") {
    const auto batch = k1();
    CHECK(batch.stride() == 3);
    CHECK(batch.keys() == Keys{"index_0", "index_1"});
    CHECK(integers_of(batch.lengths()) == Integers{2, 0, 1, 1, 1, 3});
    CHECK(integers_of(batch.offsets()) == Integers{0, 2, 2, 3, 4, 5, 8});
    CHECK(batch.length_per_key() == Integers{3, 5});
    CHECK(batch.offset_per_key() == Integers{0, 3, 8});
    CHECK(batch.stride_per_key() == Integers{3, 3});
    CHECK(batch.lengths_offset_per_key() == Integers{0, 3, 6});
    CHECK(batch.index_per_key().size() == 2);
    CHECK(batch.index_per_key().at("index_1") == 1);
    CHECK(!batch.variable_stride_per_key());
    const auto features = batch.to_dict();
    REQUIRE(features.size() == 2);
    CHECK(features[1].first == "index_1");
    CHECK(integers_of(features[1].second.values()) == Integers{4, 5, 6, 7, 8});
    const auto first = batch["index_0"], second = batch["index_1"];
    CHECK(integers_of(first.values()) == Integers{1, 2, 3});
    CHECK(integers_of(first.lengths()) == Integers{2, 0, 1});
    CHECK(numbers_of(first.weights()) == Numbers{1, .5, 1.5});
    CHECK(integers_of(second.values()) == Integers{4, 5, 6, 7, 8});
    CHECK(integers_of(second.lengths()) == Integers{1, 1, 3});
    CHECK_THROWS_WITH_AS(batch["index_2"], "KeyedJaggedTensor: no key 'index_2'; keys are [index_0, index_1]", IndexError);
  }
  TEST_CASE("the owner of lengths may reuse their memory") {
    const auto lengths = at::ones({2}, at::kLong);
    const auto batch = KeyedJaggedTensor::from_lengths({"a"}, at::tensor({7, 8}, at::kLong), lengths);
    lengths.fill_(100);
    CHECK(batch.lengths().max().item<std::int64_t>() == 1);
    CHECK(batch.slice(1, 2).values().item<std::int64_t>() == 8);
  }
  TEST_CASE("lengths and offsets describe the same batch, int32 or int64") {
    const auto by_lengths = KeyedJaggedTensor::from_lengths({"index_0", "index_1"}, integers(one_to(8)),
                                                            integers({2, 0, 1, 1, 1, 3}).to(at::kInt), numbers(k1_weights));
    check_same(by_lengths, k1());
    check_same(KeyedJaggedTensor::from_offsets({"index_0", "index_1"}, integers(one_to(8)), integers({0, 2, 2, 3, 4, 5, 8}).to(at::kInt),
                                               numbers(k1_weights)),
               k1());
    CHECK((by_lengths.lengths().scalar_type() == at::kLong));
    CHECK((KeyedJaggedTensor::from_lengths({"f"}, integers({1}).to(at::kInt), integers({1})).values().scalar_type() == at::kInt));
  }
  TEST_CASE("A3 split") {
    const auto batch = k1();
    const auto parts = batch.split(Integers{1, 1});
    REQUIRE(parts.size() == 2);
    check_same(parts[0], KeyedJaggedTensor::from_lengths({"index_0"}, integers({1, 2, 3}), integers({2, 0, 1}), numbers({1, .5, 1.5})));
    check_same(parts[1],
               KeyedJaggedTensor::from_lengths({"index_1"}, integers({4, 5, 6, 7, 8}), integers({1, 1, 3}), numbers({1, .5, 1, 1, 1.5})));
    const auto none_and_all = batch.split(Integers{0, 2});
    REQUIRE(none_and_all.size() == 2);
    CHECK(none_and_all[0].keys().empty());
    CHECK(none_and_all[0].values().numel() == 0);
    CHECK(none_and_all[0].stride() == 3);
    check_same(none_and_all[1], batch);
    CHECK_THROWS_WITH_AS(batch.split(Integers{1}), "KeyedJaggedTensor: split sizes [1] do not sum to its 2 keys", ShapeError);
    CHECK_THROWS_AS(batch.split(Integers{1, 2}), ShapeError);
    CHECK_THROWS_AS(batch.split(Integers{3, -1}), ShapeError);
  }
  TEST_CASE("A5 permute") {
    const auto batch = KeyedJaggedTensor::from_lengths({"index_0", "index_1", "index_2"}, integers(one_to(8)),
                                                       integers({0, 2, 0, 1, 1, 1, 0, 3, 0}), numbers(k1_weights));
    const auto permuted = batch.permute(Integers{1, 0, 2});
    CHECK(permuted.keys() == Keys{"index_1", "index_0", "index_2"});
    CHECK(integers_of(permuted.values()) == Integers{3, 4, 5, 1, 2, 6, 7, 8});
    CHECK(integers_of(permuted.lengths()) == Integers{1, 1, 1, 0, 2, 0, 0, 3, 0});
    CHECK(numbers_of(permuted.weights()) == Numbers{1.5, 1, .5, 1, .5, 1, 1, 1.5});
    CHECK(permuted.offset_per_key() == Integers{0, 3, 5, 8});
    check_same(permuted.permute(Integers{1, 0, 2}), batch);
  }
  TEST_CASE("A6 permute with repeats") {
    const auto batch = KeyedJaggedTensor::from_lengths({"index_0", "index_1", "index_2"}, integers(one_to(8)),
                                                       integers({0, 2, 0, 1, 1, 1, 0, 3, 0}), numbers(k1_weights));
    const auto permuted = batch.permute(Integers{1, 0, 2, 1, 1});
    CHECK(permuted.offset_per_key() == Integers{0, 3, 5, 8, 11, 14});
    CHECK(integers_of(permuted.values()) == Integers{3, 4, 5, 1, 2, 6, 7, 8, 3, 4, 5, 3, 4, 5});
    CHECK(batch.permute(Integers{}).keys().empty());
    CHECK(batch.permute(Integers{}).stride() == 3);
    CHECK_THROWS_WITH_AS(batch.permute(Integers{0, 3}), "KeyedJaggedTensor: permute index 3 of 3 keys", IndexError);
    CHECK_THROWS_AS(batch.permute(Integers{-1}), IndexError);
  }
  TEST_CASE("A8 concat") {
    const Integers lengths{0, 2, 0, 1, 1, 1, 0, 3, 0, 0, 1, 0};
    const auto whole = KeyedJaggedTensor::from_lengths({"index_0", "index_1", "index_2"}, integers(one_to(9)), integers(lengths));
    const std::vector parts{
        KeyedJaggedTensor::from_lengths({"index_0"}, integers({1, 2, 3}), integers({0, 2, 0, 1})),
        KeyedJaggedTensor::from_lengths({"index_1", "index_2"}, integers({4, 5, 6, 7, 8, 9}), integers({1, 1, 0, 3, 0, 0, 1, 0}))};
    const auto joined = KeyedJaggedTensor::concat(parts);
    check_same(joined, whole);
    CHECK(joined.length_per_key() == Integers{3, 5, 1});
    CHECK(KeyedJaggedTensor::concat({}).keys().empty());
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::concat(std::vector{parts[0], k1()}), "KeyedJaggedTensor: concat of batches of 4 and 3 rows",
                         ShapeError);
    CHECK_THROWS_AS(KeyedJaggedTensor::concat(std::vector{parts[0], parts[0]}), ShapeError);
    const auto weighted = KeyedJaggedTensor::from_lengths({"w"}, integers({1}), integers({1, 0, 0, 0}), numbers({1}));
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::concat(std::vector{parts[0], weighted}),
                         "KeyedJaggedTensor: concat of weighted and unweighted features", ShapeError);
  }
  TEST_CASE("split then concat, permute there and back, and slices joined again are the identity, for random batches") {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      Draw draw(seed);
      const auto features = draw.integer(1, 5), rows = draw.integer(0, 6);
      Keys keys;
      Integers table_rows, order;
      for (std::int64_t f = 0; f < features; ++f) {
        keys.push_back(concat("f", f));
        table_rows.push_back(draw.integer(1, 100));
        order.insert(order.begin() + draw.integer(0, f), f);
      }
      const auto batch = random_features(draw, keys, table_rows, rows, {.is_weighted = draw.chance(.5)});
      const auto cut = draw.integer(0, features);
      check_same(KeyedJaggedTensor::concat(batch.split(Integers{cut, features - cut})), batch);
      Integers back(order.size());
      for (std::size_t i = 0; i < order.size(); ++i) back[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
      check_same(batch.permute(order).permute(back), batch);
      const auto row = draw.integer(0, rows);
      const auto head = batch.slice(0, row), tail = batch.slice(row, rows);
      CHECK(head.stride() == row);
      CHECK(tail.stride() == rows - row);
      check_same(batch.slice(0, rows), batch);
      for (const auto& key : keys) {
        auto ids = integers_of(head[key].values()), more = integers_of(tail[key].values());
        ids.insert(ids.end(), more.begin(), more.end());
        CHECK(ids == integers_of(batch[key].values()));
      }
    }
  }
  TEST_CASE("slice takes rows of every feature, and refuses rows that are not there") {
    const auto rows = k1().slice(1, 3);
    CHECK(rows.stride() == 2);
    CHECK(integers_of(rows.lengths()) == Integers{0, 1, 1, 3});
    CHECK(integers_of(rows.values()) == Integers{3, 5, 6, 7, 8});
    CHECK(numbers_of(rows.weights()) == Numbers{1.5, .5, 1, 1, 1.5});
    CHECK(k1().slice(2, 2).values().numel() == 0);
    CHECK_THROWS_WITH_AS(k1().slice(1, 4), "KeyedJaggedTensor: rows 1 to 4 of a batch of 3", IndexError);
    CHECK_THROWS_AS(k1().slice(-1, 2), IndexError);
    CHECK_THROWS_AS(k1().slice(2, 1), IndexError);
  }
  TEST_CASE("A13 the valid case and torchrec's refused ones, each in a sentence of its own") {
    CHECK_NOTHROW(from_lengths({1, 2, 0, 2}));
    CHECK_NOTHROW(from_offsets({0, 1, 3, 3, 5}));
    CHECK_NOTHROW(KeyedJaggedTensor::empty());
    CHECK_NOTHROW(KeyedJaggedTensor::empty(true, at::kInt));
    const auto weights = [](std::int64_t count) {
      KeyedJaggedTensor::from_lengths({"f1", "f2"}, integers(one_to(5)), integers({1, 2, 0, 2}), at::zeros({count}));
    };
    const Keys keys{"f1", "f2"}, twice{"f1", "f1"}, three{"f1", "f2", "f3"};
    struct Refused {
      const char *name, *sentence;
      std::function<void()> build;
    };
    const std::vector<Refused> refused{
        {"no lengths and no offsets", "lengths must be a tensor of one dimension",
         [&] { KeyedJaggedTensor::from_lengths(keys, integers(one_to(5)), at::Tensor()); }},
        {"an offset too few", "lengths has 3 entries for keys (2) * batch (1)", [] { from_offsets({0, 1, 3, 5}); }},
        {"no entry of lengths", "lengths sum to 0 but there are 5 values", [] { from_lengths({}); }},
        {"lengths of another sum", "lengths sum to 9 but there are 5 values", [] { from_lengths({3, 3, 2, 1}); }},
        {"no entry of offsets", "offsets is empty; it must have an entry for every bag, and one more", [] { from_offsets({}); }},
        {"offsets that start late and end late", "offsets starts at 1; it must start at 0", [] { from_offsets({1, 2, 4, 4, 6}); }},
        {"offsets that end late", "offsets ends at 6 but there are 5 values", [] { from_offsets({0, 2, 4, 4, 6}); }},
        // torchrec's are at odds with the lengths given beside them; here a batch is given one of the two
        {"offsets that do not fit the values", "offsets ends at 5 but there are 6 values", [] { from_offsets({0, 2, 3, 3, 5}, 6); }},
        {"a key twice", "key 'f1' is given twice", [&] { from_lengths({1, 2, 0, 2}, 5, twice); }},
        {"no keys", "lengths has 4 entries for keys (0) * batch (0)", [] { from_lengths({1, 2, 0, 2}, 5, {}); }},
        {"a key too many", "lengths has 4 entries for keys (3) * batch (1)", [&] { from_lengths({1, 2, 0, 2}, 5, three); }},
        {"a weight too few", "weights of shape [4] for 5 values", [&] { weights(4); }},
        {"a weight too many", "weights of shape [6] for 5 values", [&] { weights(6); }},
    };
    for (const auto& one : refused) {
      CAPTURE(one.name);
      CHECK_THROWS_WITH_AS(one.build(), concat("KeyedJaggedTensor: ", one.sentence).c_str(), ShapeError);
    }
  }
  TEST_CASE("B2 every broken offset is refused with its numbers, before any lookup") {
    CHECK_THROWS_WITH_AS(from_offsets({1, 1, 3, 3, 5}), "KeyedJaggedTensor: offsets starts at 1; it must start at 0", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({-1, 1, 3, 3, 5}), "KeyedJaggedTensor: offsets starts at -1; it must start at 0", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, 1, 3, 3, 4}), "KeyedJaggedTensor: offsets ends at 4 but there are 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, 1, 3, 3, 6}), "KeyedJaggedTensor: offsets ends at 6 but there are 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, 3, 1, 3, 5}), "KeyedJaggedTensor: offsets decreases from 3 to 1 at entry 2", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, -2, 1, 3, 5}), "KeyedJaggedTensor: offsets decreases from 0 to -2 at entry 1", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, 1, 3, 7, 5}), "KeyedJaggedTensor: offsets decreases from 7 to 5 at entry 4", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, 1, largest, 3, 5}),
                         concat("KeyedJaggedTensor: offsets decreases from ", largest, " to 3 at entry 3").c_str(), ShapeError);
    CHECK_THROWS_AS(from_offsets({0, 1, -largest - 1, 3, 5}), ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({0, 1, 3, 5}), "KeyedJaggedTensor: lengths has 3 entries for keys (2) * batch (1)", ShapeError);
    CHECK_THROWS_WITH_AS(from_offsets({}), "KeyedJaggedTensor: offsets is empty; it must have an entry for every bag, and one more",
                         ShapeError);
    // offsets beyond 2^31 wrap to negative numbers in int32
    const auto wrapped = integers({0, std::int64_t{1} << 31, 3, 3, 5}).to(at::kInt);
    CHECK_THROWS_AS(KeyedJaggedTensor::from_offsets({"f1", "f2"}, integers(one_to(5)), wrapped), ShapeError);
  }
  TEST_CASE("B2 every broken length is refused with its numbers, the right sum notwithstanding") {
    CHECK_THROWS_WITH_AS(from_lengths({4, -1, 0, 2}), "KeyedJaggedTensor: length -1 at entry 1 with 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(from_lengths({6, -1, 0, 0}), "KeyedJaggedTensor: length 6 at entry 0 with 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(from_lengths({1, 2, 0, 1}), "KeyedJaggedTensor: lengths sum to 4 but there are 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(from_lengths({1, 2, 1, 2}), "KeyedJaggedTensor: lengths sum to 6 but there are 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(from_lengths({1, 4, 0}), "KeyedJaggedTensor: lengths has 3 entries for keys (2) * batch (1)", ShapeError);
    CHECK_THROWS_AS(from_lengths({largest, largest, 2, 5}), ShapeError);
    CHECK_THROWS_AS(from_lengths({-largest - 1, largest, 1, 5}), ShapeError);
    CHECK_THROWS_AS(from_lengths({1, 2, 0, 2}, 5, {"f1", "f2", "f3"}), ShapeError);
    CHECK_THROWS_AS(KeyedJaggedTensor::from_lengths({"f1", "f2"}, integers(one_to(5)), integers({1, 2, 0, 2}), {}, 3), ShapeError);
  }
  TEST_CASE("B2 a random batch with one random entry of its offsets changed is refused unless it is still valid") {
    int refused = 0;
    for (std::uint64_t seed = 0; seed < 2000; ++seed) {
      Draw draw(seed);
      const auto batch = random_features(draw, {"a", "b"}, {9, 9}, draw.integer(1, 4));
      auto offsets = integers_of(batch.offsets());
      const auto entry = static_cast<std::size_t>(draw.integer(0, static_cast<std::int64_t>(offsets.size()) - 1));
      offsets[entry] = draw.chance(.5) ? draw.integer(-3, 12) : draw.integer(-largest, largest);
      const bool valid = std::is_sorted(offsets.begin(), offsets.end()) && offsets.front() == 0 && offsets.back() == batch.values().numel();
      try {
        const auto changed = KeyedJaggedTensor::from_offsets({"a", "b"}, batch.values(), integers(offsets));
        CHECK(valid);
        CHECK(integers_of(changed.offsets()) == offsets);
      } catch (const ShapeError&) {
        CHECK(!valid);
        ++refused;
      }
    }
    CHECK(refused > 1000);
  }
  TEST_CASE("B4 B5 B6 keys, dtypes and dimensions that do not fit are refused") {
    CHECK_THROWS_WITH_AS(from_lengths({1, 2, 0, 2}, 5, {"f1", "f1"}), "KeyedJaggedTensor: key 'f1' is given twice", ShapeError);
    const auto lengths = integers({1, 1});
    const auto make = [&](const at::Tensor& values, const at::Tensor& of_lengths, const at::Tensor& weights = {}) {
      return KeyedJaggedTensor::from_lengths({"f"}, values, of_lengths, weights);
    };
    CHECK_THROWS_WITH_AS(make(numbers({1, 2}), lengths), "KeyedJaggedTensor: values has dtype Double; ids are int64 or int32", ShapeError);
    CHECK_THROWS_AS(make(integers({1, 2}).view({2, 1}), lengths), ShapeError);
    CHECK_THROWS_AS(make(at::Tensor(), lengths), ShapeError);
    CHECK_THROWS_WITH_AS(make(integers({1, 2}), numbers({1, 1})), "KeyedJaggedTensor: lengths has dtype Double; it must be int64 or int32",
                         ShapeError);
    CHECK_THROWS_WITH_AS(make(integers({1, 2}), lengths.view({1, 2})), "KeyedJaggedTensor: lengths must be a tensor of one dimension",
                         ShapeError);
    CHECK_THROWS_WITH_AS(make(integers({1, 2}), lengths, numbers({1})), "KeyedJaggedTensor: weights of shape [1] for 2 values", ShapeError);
    CHECK_THROWS_WITH_AS(make(integers({1, 2}), lengths, integers({1, 1})),
                         "KeyedJaggedTensor: weights has dtype Long; it must be floating", ShapeError);
    CHECK_THROWS_AS(make(integers({1, 2}), lengths, numbers({1, 2}).view({2, 1})), ShapeError);
    CHECK_THROWS_WITH_AS(make(integers({1, 2}), lengths, numbers({1, 2}).to(at::kMeta)),
                         "KeyedJaggedTensor: weights on meta and values on cpu", ShapeError);
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::from_lengths({"f"}, integers({}), integers({}), {}, largest),
                         concat("KeyedJaggedTensor: lengths has 0 entries for keys (1) * batch (", largest, ")").c_str(), ShapeError);
    CHECK_THROWS_WITH_AS(k1().feature(2), "KeyedJaggedTensor: feature 2 of 2 keys", IndexError);
  }
  TEST_CASE("B3 empty batches of every kind") {
    const KeyedJaggedTensor none;
    CHECK(none.keys().empty());
    CHECK(none.stride() == 0);
    CHECK(none.offset_per_key() == Integers{0});
    const auto no_rows = KeyedJaggedTensor::from_lengths({"a", "b"}, at::empty({0}, at::kLong), at::empty({0}, at::kLong));
    CHECK(no_rows.stride() == 0);
    CHECK(no_rows.length_per_key() == Integers{0, 0});
    CHECK(no_rows["b"].size() == 0);
    const auto all_empty = KeyedJaggedTensor::from_lengths({"a", "b"}, at::empty({0}, at::kInt), integers({0, 0, 0, 0}), at::empty({0}));
    CHECK(all_empty.stride() == 2);
    CHECK(all_empty["b"].lengths().numel() == 2);
    const auto one_empty = from_lengths({0, 0, 3, 2});
    CHECK(one_empty["f1"].values().numel() == 0);
    CHECK(integers_of(one_empty["f2"].values()) == one_to(5));
    const auto rows_without_keys = KeyedJaggedTensor::from_lengths({}, at::empty({0}, at::kLong), at::empty({0}, at::kLong), {}, 4);
    CHECK(rows_without_keys.stride() == 4);
    CHECK(rows_without_keys.slice(1, 3).stride() == 2);
  }
  TEST_CASE("views: a feature and a split share the ids; non-contiguous lengths are read right") {
    const auto batch = k1();
    CHECK(batch["index_1"].values().is_alias_of(batch.values()));
    CHECK(batch.split(Integers{1, 1})[1].weights().is_alias_of(batch.weights()));
    const auto every_other = integers({2, 9, 0, 9, 1, 9, 1, 9, 1, 9, 3, 9}).view({6, 2}).select(1, 0);
    check_same(KeyedJaggedTensor::from_lengths({"index_0", "index_1"}, integers(one_to(8)), every_other, numbers(k1_weights)), k1());
  }
  TEST_CASE("to moves ids and weights and leaves lengths on the host") {
    const auto batch = k1();
    check_same(batch.to(at::kCPU), batch);
    const auto elsewhere = batch.to(at::Device(at::kMeta));
    CHECK(elsewhere.values().is_meta());
    CHECK(elsewhere.weights().is_meta());
    CHECK(integers_of(elsewhere.lengths()) == Integers{2, 0, 1, 1, 1, 3});
  }
  TEST_CASE("from_jt_dict and to_dict are each other's opposite") {
    check_same(KeyedJaggedTensor::from_jt_dict(k1().to_dict()), k1());
    CHECK(KeyedJaggedTensor::from_jt_dict({}).keys().empty());
    const JaggedTensor two(integers({1}), integers({1, 0})), three(integers({1}), integers({1, 0, 0}));
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::from_jt_dict({{"a", two}, {"b", three}}),
                         "KeyedJaggedTensor: concat of batches of 2 and 3 rows", ShapeError);
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::from_jt_dict({{"a", two}, {"a", two}}), "KeyedJaggedTensor: key 'a' is given twice",
                         ShapeError);
    const JaggedTensor sequence(at::zeros({1, 4}), integers({1, 0}));
    CHECK_THROWS_WITH_AS(KeyedJaggedTensor::from_jt_dict({{"a", sequence}}), "KeyedJaggedTensor: values must be a tensor of one dimension",
                         ShapeError);
  }
  TEST_CASE("empty has no rows; empty_like keeps rows, dtypes and weightedness") {
    const auto none = KeyedJaggedTensor::empty(true, at::kInt, at::kDouble);
    CHECK(none.stride() == 0);
    CHECK((none.values().scalar_type() == at::kInt));
    CHECK((none.weights().scalar_type() == at::kDouble));
    const auto like = KeyedJaggedTensor::empty_like(k1());
    CHECK(like.keys().empty());
    CHECK(like.stride() == 3);
    CHECK(like.values().numel() == 0);
    CHECK((like.weights().scalar_type() == at::kDouble));
    CHECK(like.to_dict().empty());
    CHECK(KeyedJaggedTensor::concat(std::vector{like, k1()}).keys() == k1().keys());
    CHECK(k1().permute(Integers{}).to(at::Device(at::kMeta)).stride() == 3);
  }
  TEST_CASE("with_bags changes ids, lengths and weights and keeps keys and rows") {
    const auto changed = k1().with_bags(integers({9, 8}), integers({0, 1, 0, 0, 1, 0}));
    CHECK(changed.keys() == k1().keys());
    CHECK(!changed.is_weighted());
    CHECK(integers_of(changed["index_1"].values()) == Integers{8});
    CHECK_THROWS_WITH_AS(k1().with_bags(integers({9}), integers({1})), "KeyedJaggedTensor: 1 lengths for a batch of 6", ShapeError);
    CHECK_THROWS_AS(k1().with_bags(integers({9}), integers({0, 0, 0, 0, 0, 0})), ShapeError);
    const auto repeated = k1().permute(Integers{0, 0});                           // one key twice is no mistake here
    CHECK(repeated.with_bags(repeated.values(), repeated.lengths(), numbers(Numbers(6, .5))).keys() == Keys{"index_0", "index_0"});
  }
  TEST_CASE("with_keys adds the keys that the batch lacks, without ids") {
    const auto batch = KeyedJaggedTensor::from_lengths({"a", "b"}, integers({7, 8, 9}), integers({1, 0, 0, 2}), numbers({.1, .2, .3}));
    const auto more = batch.with_keys(std::vector<std::string>{"c", "b", "d", "c"});
    CHECK(more.keys() == std::vector<std::string>{"a", "b", "c", "d"});
    CHECK(integers_of(more.lengths()) == Integers{1, 0, 0, 2, 0, 0, 0, 0});
    CHECK(more.values().is_same(batch.values()));
    CHECK(more["d"].size() == 2);
    CHECK(more["d"].is_weighted());
    CHECK(batch.with_keys(std::vector<std::string>{"b"}).lengths().is_same(batch.lengths()));
    const auto variable = KeyedJaggedTensor::from_lengths(
        {"a"}, integers({7, 8}), integers({1, 1}), {},
        {.stride_per_key = {2}, .inverse_indices = {.keys = {"a"}, .indices = integers({1, 0, 0}).view({1, 3})}});
    const auto whole = variable.with_keys(std::vector<std::string>{"b"}).expanded();
    CHECK(integers_of(whole["a"].values()) == Integers{8, 7, 7});
    CHECK(integers_of(whole["b"].lengths()) == Integers{0, 0, 0});
  }
  TEST_CASE("the host has no streams to be held for") {
    CHECK_NOTHROW(k1().record_stream(c10::Stream(c10::Stream::DEFAULT, at::Device(at::kCPU))));
  }
  TEST_CASE("B3 every operation is that of plain vectors, for random batches of int32 and int64 ids with empty ones among them") {
    for (std::uint64_t seed = 0; seed < 2000; ++seed) {
      CAPTURE(seed);
      Draw draw(seed);
      const bool weighted = draw.chance(.5), variable = draw.chance(.5), inverse = variable && draw.chance(.5);
      const auto stride = draw.integer(0, 4);
      const auto plain = draw_plain(draw, 4, stride, weighted, variable, inverse);
      const auto batch = build(plain, draw.chance(.5), draw.chance(.5) ? at::kLong : at::kInt);
      CHECK(read(batch) == plain);
      const auto keys = static_cast<std::int64_t>(plain.keys.size());

      Integers rows, ids;                                          // the derived numbers
      for (const auto& feature : plain.features) {
        rows.push_back(static_cast<std::int64_t>(feature.ids.size()));
        ids.push_back(0);
        for (const auto& bag : feature.ids) ids.back() += static_cast<std::int64_t>(bag.size());
      }
      CHECK(batch.stride_per_key() == rows);
      CHECK(batch.length_per_key() == ids);

      Integers order;                                              // permute, keys repeated or left out
      for (auto n = keys == 0 ? 0 : draw.integer(0, 5); n > 0; --n) order.push_back(draw.integer(0, keys - 1));
      auto permuted = plain;
      permuted.keys.clear();
      permuted.features.clear();
      permuted.inverse.clear();
      for (const auto index : order) {
        permuted.keys.push_back(plain.keys[static_cast<std::size_t>(index)]);
        permuted.features.push_back(plain.features[static_cast<std::size_t>(index)]);
        if (inverse) permuted.inverse.push_back(plain.inverse[static_cast<std::size_t>(index)]);
      }
      CHECK(read(batch.permute(order)) == permuted);

      const auto first = draw.integer(0, keys), second = draw.integer(first, keys);      // split, and concat of its parts
      const auto parts = batch.split(Integers{first, second - first, keys - second});
      std::size_t f = 0;
      for (const auto& part : parts) {
        CHECK(part.stride() == plain.stride);
        CHECK(part.has_inverse_indices() == batch.has_inverse_indices());
        for (const auto& feature : read(part).features) CHECK(feature == plain.features[f++]);
      }
      CHECK(read(KeyedJaggedTensor::concat(parts)) == plain);

      for (const auto& [key, feature] : batch.to_dict()) {         // features
        const auto& expected = plain.features[batch.index_of(key)];
        const auto bags = feature.to_dense();
        REQUIRE(bags.size() == expected.ids.size());
        for (std::size_t b = 0; b < bags.size(); ++b) CHECK(integers_of(bags[b]) == expected.ids[b]);
      }

      auto whole = plain;                                          // the batch of equal rows
      if (inverse)
        for (std::size_t key = 0; key < plain.keys.size(); ++key) {
          whole.features[key] = {};
          for (const auto row : plain.inverse[key]) {
            whole.features[key].ids.push_back(plain.features[key].ids[static_cast<std::size_t>(row)]);
            whole.features[key].weights.push_back(plain.features[key].weights[static_cast<std::size_t>(row)]);
          }
        }
      whole.is_variable = whole.has_inverse = false;
      whole.inverse.clear();
      const bool uneven = std::any_of(whole.features.begin(), whole.features.end(), [&](const PlainFeature& feature) {
        return static_cast<std::int64_t>(feature.ids.size()) != whole.stride;
      });
      const auto begin = draw.integer(0, plain.stride), end = draw.integer(begin, plain.stride);
      if (uneven) {
        CHECK_THROWS_AS(batch.expanded(), ShapeError);
        CHECK_THROWS_AS(batch.slice(begin, end), ShapeError);
        continue;
      }
      CHECK(read(batch.expanded()) == whole);
      auto sliced = whole;
      sliced.stride = end - begin;
      for (auto& feature : sliced.features) {
        feature.ids = {feature.ids.begin() + begin, feature.ids.begin() + end};
        feature.weights = {feature.weights.begin() + begin, feature.weights.begin() + end};
      }
      CHECK(read(batch.slice(begin, end)) == sliced);
    }
  }
}

}  // namespace rookery
