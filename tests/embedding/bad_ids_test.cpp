// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// What happens to ids that their table has no row for, by policy: refused, dropped, or their bag left empty. Never another row.
// And to features that the batch does not have: refused, or without ids.
#include <rookery/embedding/embedding_bag_collection.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Set = Rules<Sgd>;
using Bags = EmbeddingBagCollection<Set>;

/// Rows 1, 2, 3, 4 in one column, summed or averaged.
Bags tables(BadIds policy, PoolingType pooling, bool weighted = false) {
  Bags declared{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1, .pooling = pooling, .data_type = at::kDouble,
                  .optimizer = Sgd{.learning_rate = 1}}},
                {.is_weighted = weighted, .bad_ids = policy}};
  declared.assign("t", at::arange(1, 5, at::kDouble).view({4, 1}));
  return declared;
}
KeyedJaggedTensor batch(at::Tensor weights = {}) {            // [0, 9], [3], [-1, 2, 2], []
  return KeyedJaggedTensor::from_lengths({"t"}, at::tensor({0, 9, 3, -1, 2, 2}, at::kLong), at::tensor({2, 1, 3, 0}, at::kLong),
                                         std::move(weights));
}
at::Tensor numbers(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

}  // namespace

TEST_SUITE("embedding/bad_ids") {
  TEST_CASE("B1 dropped ids leave their bag and are counted; the others' sums, means and gradients are those of the rest") {
    for (const bool mean : {false, true}) {
      auto model = ShardingPolicy<Local>{}.apply(tables(BadIds::drop, mean ? PoolingType::mean : PoolingType::sum));
      Optimizer step{model, Sgd{}};
      const auto out = model(batch()).values();
      CHECK(at::equal(out.detach().reshape({-1}), mean ? numbers({1, 4, 3, 0}) : numbers({1, 4, 6, 0})));
      out.sum().backward();
      step();
      CHECK(at::equal(gather_table(model, "t").reshape({-1}), mean ? numbers({0, 2, 2, 3}) : numbers({0, 2, 1, 3})));
      const auto bad = model.bad_ids();
      CHECK(bad.size() == 1);
      CHECK(bad[0].feature == "t");
      CHECK(bad[0].count == 2);
    }
  }

  TEST_CASE("B1 a bag that holds one is left empty as a whole") {
    auto model = ShardingPolicy<Local>{}.apply(tables(BadIds::empty_bag, PoolingType::mean));
    Optimizer step{model, Sgd{}};
    const auto out = model(batch()).values();
    CHECK(at::equal(out.detach().reshape({-1}), numbers({0, 4, 0, 0})));
    out.sum().backward();
    step();
    CHECK(at::equal(gather_table(model, "t").reshape({-1}), numbers({1, 2, 3, 3})));
    CHECK(model.bad_ids().at(0).count == 2);
    model(batch());
    CHECK(model.bad_ids().at(0).count == 4);
  }

  TEST_CASE("B1 of 10,000 random batches, under either policy: sums, means, weights and counts are those of plain vectors") {
    constexpr auto largest = std::numeric_limits<std::int64_t>::max();
    constexpr std::int64_t rows = 7;
    for (const auto policy : {BadIds::drop, BadIds::empty_bag})
      for (const auto pooling : {PoolingType::sum, PoolingType::mean}) {
        Bags declared{{{.name = "t", .num_embeddings = rows, .embedding_dim = 1, .pooling = pooling, .data_type = at::kDouble}},
                      {.is_weighted = true, .bad_ids = policy}};
        declared.assign("t", at::arange(1, rows + 1, at::kDouble).view({rows, 1}));
        auto model = ShardingPolicy<Local>{}.apply(std::move(declared));
        model.train(false);
        std::int64_t bad = 0, wrong = 0;
        for (std::uint64_t seed = 0; seed < 2500; ++seed) {
          cases::Draw draw(seed);
          std::vector<std::int64_t> ids, lengths;
          std::vector<double> weights, expected;
          for (auto bags = draw.integer(1, 4); bags > 0; --bags) {
            double sum = 0, divisor = 0;
            bool has_bad = false;
            lengths.push_back(draw.integer(0, 5));
            for (auto n = lengths.back(); n > 0; --n) {
              ids.push_back(draw.chance(.7) ? draw.integer(0, rows - 1) : draw.chance(.5) ? draw.integer(rows, rows + 2)
                                                                                      : draw.integer(-largest - 1, largest));
              weights.push_back(draw.integer(1, 8) / 4.);      // sums of these are exact
              const bool good = ids.back() >= 0 && ids.back() < rows;
              bad += !good;
              has_bad = has_bad || !good;
              if (!good) continue;
              sum += weights.back() * static_cast<double>(ids.back() + 1);
              divisor += weights.back();
            }
            if (has_bad && policy == BadIds::empty_bag) sum = divisor = 0;
            expected.push_back(divisor == 0 ? 0 : pooling == PoolingType::mean ? sum / divisor : sum);
          }
          const auto features =
              KeyedJaggedTensor::from_lengths({"t"}, at::tensor(ids, at::kLong), at::tensor(lengths, at::kLong), numbers(weights));
          wrong += !at::equal(model(features).values().reshape({-1}), numbers(expected));
        }
        CHECK(wrong == 0);
        CHECK(bad > 1000);
        CHECK(model.bad_ids().at(0).count == bad);
      }
  }

  TEST_CASE("weights of the ids that stay keep their places, and their gradients") {
    auto model = ShardingPolicy<Local>{}.apply(tables(BadIds::drop, PoolingType::sum, true));
    const auto weights = numbers({10, 20, 30, 40, 50, 60}).set_requires_grad(true);
    const auto out = model(batch(weights)).values();
    CHECK(at::equal(out.detach().reshape({-1}), numbers({10, 120, 330, 0})));
    out.sum().backward();
    CHECK(at::equal(weights.grad(), numbers({1, 0, 4, 0, 3, 3})));
  }

  TEST_CASE("B1 sequences refuse a bad id by name, or are shorter by the ids or bags left out") {
    const auto placed = [](BadIds policy) {
      EmbeddingCollection<Set> declared{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1}}, {.bad_ids = policy}};
      declared.assign("t", at::arange(1, 5, at::kDouble).view({4, 1}));
      return ShardingPolicy<Local>{}.apply(std::move(declared));
    };
    auto strict = placed(BadIds::refuse), dropping = placed(BadIds::drop), emptying = placed(BadIds::empty_bag);
    CHECK_THROWS_WITH_AS(strict(batch()), "feature 't' of table 'embeddings.t': id 9 at position 1 of row 0; the table has 4 rows",
                         IndexError);
    const auto shorter = dropping(batch()), emptied = emptying(batch());
    CHECK(at::equal(shorter["t"].values().detach().reshape({-1}), numbers({1, 4, 3, 3}).to(at::kFloat)));
    CHECK(at::equal(shorter["t"].lengths(), at::tensor({1, 1, 2, 0}, at::kLong)));
    CHECK(at::equal(emptied["t"].values().detach().reshape({-1}), numbers({4}).to(at::kFloat)));
    CHECK(at::equal(emptied["t"].lengths(), at::tensor({0, 1, 0, 0}, at::kLong)));
    CHECK(emptying.bad_ids().at(0).count == 2);
  }

  TEST_CASE("on several ranks each counts its own, and what is learned is the same") {
    Threads::run(2, [](Threads topology) {
      ShardingPolicy sharding{topology, {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}}}};
      auto model = sharding.apply(tables(BadIds::drop, PoolingType::sum));
      Optimizer step{model, Sgd{}};
      const auto mine = batch().slice(topology.rank() == 0 ? 0 : 1, topology.rank() == 0 ? 1 : 4);
      model(mine).values().sum().backward();
      step();
      CHECK(at::equal(gather_table(model, "t").reshape({-1}), numbers({0, 2, 1, 3})));
      CHECK(model.bad_ids().at(0).count == 1);
    });
  }
}

TEST_SUITE("embedding/missing_features") {
  TEST_CASE("a feature that the batch does not have is refused, or gives zeros and keeps its rows, as bags without ids") {
    const auto declared = [](MissingFeatures policy, bool weighted) {
      return Bags{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1, .feature_names = {"t", "u"}, .data_type = at::kDouble},
                   {.name = "v", .num_embeddings = 2, .embedding_dim = 2, .pooling = PoolingType::mean, .data_type = at::kDouble}},
                  {.is_weighted = weighted, .missing_features = policy}};
    };
    const auto ids = at::tensor({0, 3, 1}, at::kLong);
    for (const bool weighted : {false, true}) {
      const auto weights = weighted ? numbers({2, 1, .5}) : at::Tensor{};
      const auto some = KeyedJaggedTensor::from_lengths({"u"}, ids, at::tensor({2, 0, 1}, at::kLong), weights);
      auto strict = ShardingPolicy<Local>{}.apply(declared(MissingFeatures::refuse, weighted));
      CHECK_THROWS_WITH_AS(strict(some), "feature 't' of table 'embedding_bags.t': the batch has no such key; keys are [u]", IndexError);
      const auto run = [&](auto& topology, const KeyedJaggedTensor& given) {
        auto model = maybe_shard_model(declared(MissingFeatures::empty, weighted), topology);
        Optimizer step{model, Sgd{}};
        const auto out = model(given).values();                                              // [3, 4]
        out.sum().backward();
        step();
        return std::vector{out.detach(), gather_table(model, "t"), gather_table(model, "v")};
      };
      const auto all = KeyedJaggedTensor::from_lengths({"t", "u", "v"}, ids, at::tensor({0, 0, 0, 2, 0, 1, 0, 0, 0}, at::kLong), weights);
      Local local;
      const auto found = run(local, some), expected = run(local, all);
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(at::equal(found[i], expected[i]));
      CHECK(found[0].select(1, 0).eq(0).all().item<bool>());
      CHECK(found[0].narrow(1, 2, 2).eq(0).all().item<bool>());
      CHECK(found[0].select(1, 1).ne(0).any().item<bool>());
      Threads::run(2, [&](Threads topology) {                                                // one rank lacks what the other has
        const auto shared = run(topology, topology.rank() == 0 ? some : all);
        CHECK(at::equal(shared[0], expected[0]));
      });
    }
  }
  TEST_CASE("sequences of a missing feature have no rows; keys of their own rows and inverse indices are completed too") {
    EmbeddingCollection<Set> declared{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1, .feature_names = {"t", "u"}}},
                                      {.missing_features = MissingFeatures::empty}};
    auto model = ShardingPolicy<Local>{}.apply(std::move(declared));
    const auto found = model(KeyedJaggedTensor::from_lengths({"t"}, at::tensor({0, 3}, at::kLong), at::tensor({2, 0}, at::kLong)));
    CHECK(found["u"].values().sizes() == at::IntArrayRef({0, 1}));
    CHECK(found["u"].size() == 2);
    const auto distinct = KeyedJaggedTensor::from_lengths(
        {"t"}, at::tensor({0, 3}, at::kLong), at::tensor({2}, at::kLong), {},
        {.stride_per_key = {1}, .inverse_indices = {.keys = {"t"}, .indices = at::tensor({0, 0, 0}, at::kLong).view({1, 3})}});
    const auto repeated = model(distinct);
    CHECK(repeated["t"].size() == 3);
    CHECK(repeated["u"].size() == 3);
    auto pooled = ShardingPolicy<Local>{}.apply(Bags{{{.name = "t", .num_embeddings = 4, .embedding_dim = 1, .feature_names = {"t", "u"}}},
                                                     {.missing_features = MissingFeatures::empty}});
    const auto sums = pooled(distinct).values();                                             // [3, 2]
    CHECK(sums.sizes() == at::IntArrayRef({3, 2}));
    CHECK(sums.select(1, 1).eq(0).all().item<bool>());
    CHECK(sums.select(1, 0).ne(0).all().item<bool>());
  }
}

}  // namespace rookery
