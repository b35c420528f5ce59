// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/transforms.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "sparse/cases.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace cases;

constexpr auto largest = std::numeric_limits<std::int64_t>::max(), smallest = std::numeric_limits<std::int64_t>::min();

/// Two keys of two rows.
KeyedJaggedTensor two_keys(at::ScalarType dtype = at::kLong) {
  return KeyedJaggedTensor::from_lengths({"a", "b"}, integers({10, -11, 12, 20, 21, 22}).to(dtype), integers({3, 0, 1, 2}),
                                         numbers({1, 2, 3, 4, 5, 6}));
}

}  // namespace

TEST_SUITE("sparse/transforms") {
  TEST_CASE("the hash is MurmurHash3's finaliser, and the same in every version") {
    CHECK(murmur3_finalizer(0) == 0);
    CHECK(murmur3_finalizer(1) == 0xb456bcfc34c2cb2cULL);
    CHECK(murmur3_finalizer(2) == 0x3abf2a20650683e7ULL);
    CHECK(murmur3_finalizer(~std::uint64_t{0}) == 0x64b5720b4b825f21ULL);
    static_assert(hashed_row(0, 1000) == 0);
    CHECK(Integers{hashed_row(1, 1000), hashed_row(-1, 1000), hashed_row(largest, 1000), hashed_row(smallest, 1000)} ==
          Integers{604, 289, 930, 707});
    CHECK(Integers{hashed_row(0, 1000, 7), hashed_row(1, 1000, 7), hashed_row(-1, 1000, 7), hashed_row(123456789, 1 << 20, 7)} ==
          Integers{965, 47, 181, 205532});
  }
  TEST_CASE("hash_into takes all keys or one, int64 or int32, and leaves lengths and weights") {
    for (const auto dtype : {at::kLong, at::kInt}) {
      const auto batch = two_keys(dtype);
      const auto hashed = hash_into(batch, 100, 3);
      Integers expected;
      for (const auto id : integers_of(batch.values())) expected.push_back(hashed_row(id, 100, 3));
      CHECK(integers_of(hashed.values()) == expected);
      CHECK((hashed.values().scalar_type() == dtype));
      CHECK(integers_of(hashed.lengths()) == integers_of(batch.lengths()));
      CHECK(numbers_of(hashed.weights()) == numbers_of(batch.weights()));
      CHECK(integers_of(hash_into(batch, "b", 100, 3).values()) == Integers{10, -11, 12, expected[3], expected[4], expected[5]});
      CHECK(integers_of(batch.values()) == Integers{10, -11, 12, 20, 21, 22});
    }
    CHECK_THROWS_WITH_AS(hash_into(two_keys(), "c", 100), "KeyedJaggedTensor: no key 'c'; keys are [a, b]", IndexError);
    CHECK_THROWS_WITH_AS(hash_into(two_keys(), 0), "hash_into: into 0 rows; it must be 1 or more", ConfigError);
    CHECK_THROWS_WITH_AS(hash_into(two_keys(at::kInt), (std::int64_t{1} << 31) + 1),
                         "hash_into: into 2147483649 rows, which int32 ids cannot name", ConfigError);
    CHECK_NOTHROW(hash_into(two_keys(at::kInt), std::int64_t{1} << 31));
    CHECK_NOTHROW(hash_into(two_keys(), largest));
  }
  TEST_CASE("hashed rows are even, and seeds bring different ids together") {
    std::vector<int> hits(64);
    for (std::int64_t id = 0; id < 64'000; ++id) ++hits[static_cast<std::size_t>(hashed_row(id * 1024, 64))];
    const auto [least, most] = std::minmax_element(hits.begin(), hits.end());
    CHECK(*least > 850);                                           // 1000 expected, standard deviation 31
    CHECK(*most < 1150);
    int together = 0;
    for (std::int64_t id = 1; id < 10'000; ++id)
      together += hashed_row(0, 50, 1) == hashed_row(id, 50, 1) && hashed_row(0, 50, 2) == hashed_row(id, 50, 2);
    CHECK(together < 20);                                          // 4 expected
  }
  TEST_CASE("modulo is never negative") {
    CHECK(integers_of(modulo(two_keys(), 7).values()) == Integers{3, 3, 5, 6, 0, 1});
    CHECK(integers_of(modulo(two_keys(at::kInt), "a", 7).values()) == Integers{3, 3, 5, 20, 21, 22});
    const auto ends = KeyedJaggedTensor::from_lengths({"a"}, integers({smallest, largest}), integers({2}));
    CHECK(integers_of(modulo(ends, 1000).values()) == Integers{192, 807});
    CHECK(integers_of(modulo(ends, largest).values()) == Integers{largest - 1, 0});
    CHECK_THROWS_WITH_AS(modulo(two_keys(), -1), "modulo: into -1 rows; it must be 1 or more", ConfigError);
  }
  TEST_CASE("clip_lengths keeps the first or the last ids, weights with them") {
    const auto first = clip_lengths(two_keys(), 1);
    CHECK(integers_of(first.lengths()) == Integers{1, 0, 1, 1});
    CHECK(integers_of(first.values()) == Integers{10, 20, 21});
    CHECK(numbers_of(first.weights()) == Numbers{1, 4, 5});
    const auto last = clip_lengths(two_keys(), "a", 2, Keep::last);
    CHECK(integers_of(last.lengths()) == Integers{2, 0, 1, 2});
    CHECK(integers_of(last.values()) == Integers{-11, 12, 20, 21, 22});
    CHECK(integers_of(clip_lengths(two_keys(), 0).values()).empty());
    CHECK(clip_lengths(two_keys(), 3).keys() == Keys{"a", "b"});
    CHECK_THROWS_WITH_AS(clip_lengths(two_keys(), -1), "clip_lengths: to -1 ids; it must be 0 or more", ConfigError);
    CHECK_THROWS_AS(clip_lengths(two_keys(), "c", 1), IndexError);
    const auto weights = numbers({1, 2, 3}).set_requires_grad(true);
    const auto batch = KeyedJaggedTensor::from_lengths({"a"}, integers({1, 2, 3}), integers({3}), weights);
    clip_lengths(batch, 2, Keep::last).weights().sum().backward();
    CHECK(numbers_of(weights.grad()) == Numbers{0, 1, 1});
  }
  TEST_CASE("every transform is that of plain vectors, for random batches, rows per key and inverse indices among them") {
    for (std::uint64_t seed = 0; seed < 500; ++seed) {
      CAPTURE(seed);
      Draw draw(seed);
      const bool variable = draw.chance(.5);
      const auto plain = draw_plain(draw, 4, draw.integer(0, 4), draw.chance(.5), variable, variable && draw.chance(.5));
      const auto batch = build(plain);
      const bool one = !plain.keys.empty() && draw.chance(.5);
      const auto key = one ? draw.one_of(plain.keys) : std::string{};
      const auto rows = draw.integer(1, 50), longest = draw.integer(0, 3);
      const auto keep = draw.chance(.5) ? Keep::first : Keep::last;
      auto hashed = plain, rest = plain, clipped = plain;
      for (std::size_t f = 0; f < plain.keys.size(); ++f) {
        if (one && plain.keys[f] != key) continue;
        for (auto& bag : hashed.features[f].ids)
          for (auto& id : bag) id = hashed_row(id, rows, seed);
        for (auto& bag : rest.features[f].ids)
          for (auto& id : bag) id = (id + 1000 * rows) % rows;
        const auto cut = [&](auto& bag) {
          if (static_cast<std::int64_t>(bag.size()) <= longest) return;
          if (keep == Keep::first) bag.erase(bag.begin() + longest, bag.end());
          else bag.erase(bag.begin(), bag.end() - longest);
        };
        for (auto& bag : clipped.features[f].ids) cut(bag);
        for (auto& bag : clipped.features[f].weights) cut(bag);
      }
      CHECK(read(one ? hash_into(batch, key, rows, seed) : hash_into(batch, rows, seed)) == hashed);
      CHECK(read(one ? modulo(batch, key, rows) : modulo(batch, rows)) == rest);
      CHECK(read(one ? clip_lengths(batch, key, longest, keep) : clip_lengths(batch, longest, keep)) == clipped);
    }
  }
}

}  // namespace rookery
