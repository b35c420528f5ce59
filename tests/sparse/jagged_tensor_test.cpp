// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/sparse/jagged_tensor.hpp>

#include <rookery/sparse/validate.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "sparse/cases.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace cases;

/// The case of A10: values 1..8 of six rows.
JaggedTensor six_rows() {
  return JaggedTensor::from_offsets(numbers({1, 2, 3, 4, 5, 6, 7, 8}), integers({0, 2, 2, 3, 4, 5, 8}),
                                    numbers({.1, .2, .3, .4, .5, .6, .7, .8}));
}

}  // namespace

TEST_SUITE("sparse/jagged_tensor") {
  TEST_CASE("a jagged tensor is values, lengths, and weights where there are any") {
    const JaggedTensor plain(integers({7, 8, 9}), integers({1, 0, 2}));
    CHECK(plain.size() == 3);
    CHECK(integers_of(plain.values()) == Integers{7, 8, 9});
    CHECK(integers_of(plain.offsets()) == Integers{0, 1, 1, 3});
    CHECK(!plain.is_weighted());
    CHECK_THROWS_WITH_AS(plain.weights(), "JaggedTensor: weights() asked of a feature without weights", ShapeError);
    const JaggedTensor weighted(integers({7}), integers({1}), numbers({.5}));
    CHECK(numbers_of(weighted.weights()) == Numbers{.5});
  }
  TEST_CASE("lengths and offsets derive each other, of int32 or int64, from any device") {
    const auto by_lengths = JaggedTensor::from_lengths(integers({7, 8, 9}).to(at::kInt), integers({1, 0, 2}).to(at::kInt));
    CHECK(integers_of(by_lengths.offsets()) == Integers{0, 1, 1, 3});
    CHECK((by_lengths.values().scalar_type() == at::kInt));
    const auto by_offsets = JaggedTensor::from_offsets(integers({7, 8, 9}), integers({0, 1, 1, 3}).to(at::kInt));
    CHECK(integers_of(by_offsets.lengths()) == Integers{1, 0, 2});
    CHECK((by_offsets.lengths().scalar_type() == at::kLong));
    CHECK(integers_of(offsets_of(at::empty({0}, at::kLong))) == Integers{0});
  }
  TEST_CASE("rows of other dims or dtypes, a padding that the dtype does not have, and lengths beyond memory are one sentence each") {
    const auto joined = [](at::Tensor first, at::Tensor second) { return JaggedTensor::from_dense(std::vector{first, second}); };
    CHECK_THROWS_WITH_AS(joined(at::zeros({2, 3}), at::zeros({1, 4})),
                         "JaggedTensor: values of row 1 have shape [1, 4], dtype Float on cpu, those of row 0 [2, 3], Float on cpu; only "
                         "the first dimension may differ",
                         ShapeError);
    CHECK_THROWS_AS(joined(at::zeros({2, 3}), at::zeros({1})), ShapeError);
    CHECK_THROWS_WITH_AS(joined(integers({7}), at::zeros({2})),
                         "JaggedTensor: values of row 1 have shape [2], dtype Float on cpu, those of row 0 [1], Long on cpu; only the "
                         "first dimension may differ",
                         ShapeError);
    const std::vector rows{integers({7}), integers({8})};
    CHECK_THROWS_AS(JaggedTensor::from_dense(rows, std::vector{numbers({1}), at::ones({1})}), ShapeError);

    const JaggedTensor ids(integers({7, 8, 9}), integers({1, 2}));
    const auto padded = [&](const at::Scalar& padding) { return ids.to_padded_dense(3, padding)[0][2].item<std::int64_t>(); };
    CHECK_THROWS_WITH_AS(padded(1.5), "JaggedTensor: values of Long cannot be padded with 1.5", ConfigError);
    CHECK_THROWS_WITH_AS(padded(std::numeric_limits<double>::quiet_NaN()), "JaggedTensor: values of Long cannot be padded with nan",
                         ConfigError);
    CHECK_THROWS_AS(padded(1e19), ConfigError);
    CHECK(padded(2.0) == 2);
    CHECK(padded(std::numeric_limits<std::int64_t>::max()) == std::numeric_limits<std::int64_t>::max());
    const JaggedTensor narrow(integers({7}).to(at::kInt), integers({1}));
    CHECK_THROWS_AS(narrow.to_padded_dense(2, std::int64_t{1} << 31), ConfigError);
    CHECK(narrow.to_padded_dense(2, -(std::int64_t{1} << 31)).min().item<std::int64_t>() == -(std::int64_t{1} << 31));
    CHECK(six_rows().to_padded_dense(4, std::numeric_limits<double>::quiet_NaN()).isnan().any().item<bool>());

    CHECK_THROWS_WITH_AS(ids.to_padded_dense(std::int64_t{1} << 50),
                         "JaggedTensor: 2 rows padded to 1125899906842624 values each need 18014398509481984 bytes", ShapeError);
    const JaggedTensor bytes(at::zeros({2}, at::kByte), integers({2}));
    CHECK_THROWS_AS(bytes.to_padded_dense(std::numeric_limits<std::int64_t>::max()), ShapeError);
  }
  TEST_CASE("A9 from_dense_lengths keeps the first entries of each row") {
    const auto dense = at::arange(1, 13).view({4, 3});
    const auto jagged = JaggedTensor::from_dense_lengths(dense, integers({1, 0, 2, 3}), dense.to(at::kDouble).mul(.5));
    CHECK(integers_of(jagged.values()) == Integers{1, 7, 8, 10, 11, 12});
    CHECK(integers_of(jagged.offsets()) == Integers{0, 1, 1, 3, 6});
    CHECK(numbers_of(jagged.weights()) == Numbers{.5, 3.5, 4, 5, 5.5, 6});
    CHECK_THROWS_WITH_AS(JaggedTensor::from_dense_lengths(dense, integers({1, 0, 4, 3})), "JaggedTensor: length 4 at entry 2 of rows of 3",
                         ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor::from_dense_lengths(dense, integers({1, 0, 2})), "JaggedTensor: lengths has 3 entries for 4 rows",
                         ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor::from_dense_lengths(dense, integers({1, 0, -2, 3})),
                         "JaggedTensor: length -2 at entry 2 of rows of 3", ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor::from_dense_lengths(dense, integers({1, 0, 2, 3}), at::ones({4, 2})),
                         "JaggedTensor: weights of shape [4, 2] for values of shape [4, 3]", ShapeError);
    CHECK_THROWS_AS(JaggedTensor::from_dense_lengths(at::arange(4), integers({1, 0, 2, 3})), ShapeError);
  }
  TEST_CASE("A10 to_dense and to_padded_dense") {
    const auto jagged = six_rows();
    const auto rows = jagged.to_dense();
    REQUIRE(rows.size() == 6);
    const std::vector<Numbers> expected{{1, 2}, {}, {3}, {4}, {5}, {6, 7, 8}};
    for (std::size_t b = 0; b < rows.size(); ++b) CHECK(numbers_of(rows[b]) == expected[b]);
    CHECK(rows[5].is_alias_of(jagged.values()));
    CHECK(numbers_of(jagged.to_dense_weights()[5]) == Numbers{.6, .7, .8});
    const auto padded = jagged.to_padded_dense(2, 10);
    CHECK(padded.sizes() == at::IntArrayRef({6, 2}));
    CHECK(numbers_of(padded) == Numbers{1, 2, 10, 10, 3, 10, 4, 10, 5, 10, 6, 7});
    CHECK(numbers_of(jagged.to_padded_dense_weights(2, 1)) == Numbers{.1, .2, 1, 1, .3, 1, .4, 1, .5, 1, .6, .7});
    CHECK(numbers_of(jagged.to_padded_dense()) == Numbers{1, 2, 0, 0, 0, 0, 3, 0, 0, 4, 0, 0, 5, 0, 0, 6, 7, 8});
    CHECK(jagged.to_padded_dense(0).sizes() == at::IntArrayRef({6, 0}));
    CHECK(jagged.to_padded_dense(4, -1).select(1, 3).eq(-1).all().item<bool>());
    CHECK_THROWS_WITH_AS(jagged.to_padded_dense(-1), "JaggedTensor: desired length -1 is negative", ShapeError);
    CHECK_THROWS_AS(jagged.to_padded_dense(std::numeric_limits<std::int64_t>::max()), ShapeError);
    CHECK_THROWS_AS(JaggedTensor(integers({1}), integers({1})).to_dense_weights(), ShapeError);
    const auto ids = JaggedTensor(integers({7, 8}), integers({2, 0})).to_padded_dense(std::nullopt, -1);
    CHECK((ids.scalar_type() == at::kLong));
    CHECK(integers_of(ids) == Integers{7, 8, -1, -1});
  }
  TEST_CASE("sequences of embeddings: values of more dimensions, and gradients through padding") {
    const auto values = at::arange(12, at::kDouble).view({4, 3}).set_requires_grad(true);
    const JaggedTensor sequence(values, integers({2, 0, 1, 1}));
    CHECK(sequence.to_dense()[0].sizes() == at::IntArrayRef({2, 3}));
    CHECK(sequence.to_dense()[1].sizes() == at::IntArrayRef({0, 3}));
    const auto padded = sequence.to_padded_dense(2, 5);
    CHECK(padded.sizes() == at::IntArrayRef({4, 2, 3}));
    CHECK(numbers_of(padded[2]) == Numbers{6, 7, 8, 5, 5, 5});
    padded.mul(at::arange(24, at::kDouble).view({4, 2, 3})).sum().backward();
    CHECK(numbers_of(values.grad()) == Numbers{0, 1, 2, 3, 4, 5, 12, 13, 14, 18, 19, 20});
    values.mutable_grad().reset();
    sequence.to_padded_dense(1).sum().backward();
    CHECK(numbers_of(values.grad()) == Numbers{1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1});
    const auto dense = at::ones({2, 2, 3}, at::kDouble).set_requires_grad(true);
    JaggedTensor::from_dense_lengths(dense, integers({1, 2})).values().sum().backward();
    CHECK(numbers_of(dense.grad()) == Numbers{1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1});
  }
  TEST_CASE("from_dense joins rows, weights with them") {
    const std::vector rows{numbers({1, 2}), numbers({}), numbers({3})};
    const std::vector weights{numbers({.1, .2}), numbers({}), numbers({.3})};
    const auto jagged = JaggedTensor::from_dense(rows, weights);
    CHECK(integers_of(jagged.lengths()) == Integers{2, 0, 1});
    CHECK(numbers_of(jagged.values()) == Numbers{1, 2, 3});
    CHECK(numbers_of(jagged.weights()) == Numbers{.1, .2, .3});
    CHECK(!JaggedTensor::from_dense(rows).is_weighted());
    CHECK(JaggedTensor::from_dense({}).size() == 0);
    CHECK_THROWS_WITH_AS(JaggedTensor::from_dense(rows, std::vector{numbers({1, 2})}), "JaggedTensor: weights of 1 rows for 3 rows",
                         ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor::from_dense(rows, std::vector{numbers({1, 2}), numbers({}), numbers({1, 2})}),
                         "JaggedTensor: weights of shape [2] for 1 values", ShapeError);
    CHECK_THROWS_AS(JaggedTensor::from_dense(std::vector{at::Tensor()}), ShapeError);
  }
  TEST_CASE("from_dense(to_dense(x)) is x, and padding keeps every row, for random shapes with empty ones") {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      Draw draw(seed);
      const auto rows = draw.integer(0, 5), dim = draw.integer(0, 3);
      const bool flat = draw.chance(.3), weighted = draw.chance(.5);
      Integers lengths;
      std::int64_t n = 0;
      for (std::int64_t b = 0; b < rows; ++b) n += lengths.emplace_back(draw.chance(.3) ? 0 : draw.integer(0, 4));
      const JaggedTensor jagged(draw.tensor(flat ? Integers{n} : Integers{n, dim}), integers(lengths),
                                weighted ? draw.tensor({n}) : at::Tensor{});
      if (rows > 0) {
        const auto back = weighted ? JaggedTensor::from_dense(jagged.to_dense(), jagged.to_dense_weights())
                                   : JaggedTensor::from_dense(jagged.to_dense());
        CHECK(at::equal(back.values(), jagged.values()));
        CHECK(at::equal(back.lengths(), jagged.lengths()));
        if (weighted) CHECK(at::equal(back.weights(), jagged.weights()));
      }
      const auto width = draw.integer(0, 5);
      const auto padded = jagged.to_padded_dense(width, 7);
      REQUIRE(padded.size(0) == rows);
      REQUIRE(padded.size(1) == width);
      const auto dense = jagged.to_dense();
      for (std::int64_t b = 0; b < rows; ++b) {
        const auto kept = std::min(lengths[static_cast<std::size_t>(b)], width);
        CHECK(at::equal(padded[b].narrow(0, 0, kept), dense[static_cast<std::size_t>(b)].narrow(0, 0, kept)));
        CHECK(padded[b].narrow(0, kept, width - kept).eq(7).all().item<bool>());
      }
      const auto whole = jagged.to_padded_dense();
      if (rows > 0 && n > 0) CHECK(at::equal(JaggedTensor::from_dense_lengths(whole, jagged.lengths()).values(), jagged.values()));
      const auto cut = draw.integer(0, rows);
      CHECK(jagged.slice(0, cut).size() == cut);
      CHECK(at::equal(at::cat({jagged.slice(0, cut).values(), jagged.slice(cut, rows).values()}), jagged.values()));
    }
  }
  TEST_CASE("B2 what does not fit together is refused in a sentence") {
    const auto offsets = [](const Integers& entries) { return JaggedTensor::from_offsets(integers(one_to(5)), integers(entries)); };
    CHECK_THROWS_WITH_AS(offsets({1, 3, 5}), "JaggedTensor: offsets starts at 1; it must start at 0", ShapeError);
    CHECK_THROWS_WITH_AS(offsets({0, 3, 4}), "JaggedTensor: offsets ends at 4 but there are 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(offsets({0, 6, 5}), "JaggedTensor: offsets decreases from 6 to 5 at entry 2", ShapeError);
    CHECK_THROWS_WITH_AS(offsets({}), "JaggedTensor: offsets is empty; it must have an entry for every bag, and one more", ShapeError);
    const auto lengths = [](const Integers& entries) { return JaggedTensor(integers(one_to(5)), integers(entries)); };
    CHECK_THROWS_WITH_AS(lengths({6, -1}), "JaggedTensor: length 6 at entry 0 with 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(lengths({4, -1, 2}), "JaggedTensor: length -1 at entry 1 with 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(lengths({4}), "JaggedTensor: lengths sum to 4 but there are 5 values", ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor(integers({1}), numbers({1})), "JaggedTensor: lengths has dtype Double; it must be int64 or int32",
                         ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor(at::Tensor(), integers({1})), "JaggedTensor: values must be a tensor of one dimension or more",
                         ShapeError);
    CHECK_THROWS_AS(JaggedTensor::from_offsets(at::Tensor(), integers({0})), ShapeError);
    CHECK_THROWS_AS(JaggedTensor(integers({1}), at::Tensor()), ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor(integers({1}), integers({1}), numbers({1, 2})), "JaggedTensor: weights of shape [2] for 1 values",
                         ShapeError);
    CHECK_THROWS_WITH_AS(JaggedTensor(integers({1}), integers({1}), numbers({1}).to(at::kMeta)),
                         "JaggedTensor: weights on meta and values on cpu", ShapeError);
    CHECK_THROWS_WITH_AS(six_rows().slice(2, 7), "JaggedTensor: rows 2 to 7 of 6", IndexError);
    CHECK_THROWS_AS(six_rows().slice(3, 2), IndexError);
  }
  TEST_CASE("B3 empty features of every kind") {
    const JaggedTensor none;
    CHECK(none.size() == 0);
    CHECK(none.to_dense().empty());
    CHECK(none.to_padded_dense().sizes() == at::IntArrayRef({0, 0}));
    const JaggedTensor rows_without_ids(at::empty({0, 4}), integers({0, 0, 0}), at::empty({0}));
    CHECK(rows_without_ids.to_padded_dense().sizes() == at::IntArrayRef({3, 0, 4}));
    CHECK(at::equal(rows_without_ids.to_padded_dense(2, 9), at::full({3, 2, 4}, 9.)));
    CHECK(rows_without_ids.to_dense()[2].sizes() == at::IntArrayRef({0, 4}));
    CHECK(JaggedTensor::from_dense_lengths(at::empty({0, 3}), integers({})).size() == 0);
    CHECK(JaggedTensor::from_dense_lengths(at::empty({2, 0}), integers({0, 0})).size() == 2);
    CHECK(JaggedTensor::from_offsets(at::empty({0}), integers({0})).size() == 0);
  }
  TEST_CASE("to moves values and weights and leaves lengths on the host; the host has no streams") {
    const auto moved = six_rows().to(at::Device(at::kMeta));
    CHECK(moved.values().is_meta());
    CHECK(moved.weights().is_meta());
    CHECK(integers_of(moved.lengths()) == Integers{2, 0, 1, 1, 1, 3});
    CHECK_NOTHROW(six_rows().record_stream(c10::Stream(c10::Stream::DEFAULT, at::Device(at::kCPU))));
  }
}

}  // namespace rookery
