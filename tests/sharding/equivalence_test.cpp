// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The law that everything rests on: training on any number of ranks, under any plan, leaves every tensor as one process would.
// ROOKERY_PLANS and ROOKERY_SEED choose how many random plans are tried and from which seed on; a failure names its seed.

#include <ATen/ops/equal.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <rookery/sharding/replicas.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rk = rookery;
namespace cases = rookery::cases;

namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// Every rule under sums and means, weighted and not; a shared feature, two features of one table, a frozen table; row_wise and
/// table_wise by turns.
cases::Trial of_everything(int ranks, std::uint64_t seed) {
  const rk::Adagrad adagrad{.learning_rate = .05, .eps = 1e-6};
  const rk::RowwiseAdagrad rowwise{.learning_rate = .05, .eps = 1e-6};
  const rk::Adam adam{.learning_rate = .01, .eps = 1e-6};
  const auto table = [](std::string name, std::int64_t rows, std::int64_t dim, rk::PoolingType pooling,
                        rk::RuleChoice<cases::AllRules> rule) {
    return cases::Table{.name = std::move(name),
                        .num_embeddings = rows,
                        .embedding_dim = dim,
                        .pooling = pooling,
                        .data_type = at::kDouble,
                        .optimizer = rule};
  };
  constexpr auto sum = rk::PoolingType::sum, mean = rk::PoolingType::mean;
  cases::Trial trial{.seed = seed, .ranks = ranks};
  trial.bags = {table("sgd", 23, 4, sum, rk::Sgd{.learning_rate = .1}), table("rowwise_adagrad", 31, 7, mean, rowwise),
                table("adagrad", 11, 1, sum, adagrad), table("adam", 17, 5, mean, adam), table("frozen", 13, 3, sum, adam)};
  trial.bags[1].feature_names = {"one", "two"};
  trial.bags[3].feature_names = {"one"};
  trial.bags[4].frozen = true;
  trial.weighted = {table("weighted_adam", 29, 6, sum, adam), table("weighted_rowwise_adagrad", 19, 3, mean, rowwise),
                    table("weighted_adagrad", 7, 9, mean, adagrad), table("weighted_sgd", 3, 2, sum, rk::Sgd{.learning_rate = .1})};
  for (const auto* name : {"rowwise_adagrad", "adam", "weighted_adam", "weighted_adagrad"})
    trial.placement.constraints[name] = {.kinds = {rk::ShardingKind::row_wise}};
  trial.placement.seed = seed;
  return trial;
}

}  // namespace

TEST_SUITE("sharding/equivalence") {
  TEST_CASE("sharded equals local: every rule, sums, means and weights, table_wise and row_wise mixed, on 2, 3 and 4 ranks") {
    for (const int ranks : {2, 3, 4})
      for (const auto* dense_rule : {"sgd", "adagrad", "adam"}) {
        auto trial = of_everything(ranks, 10 + static_cast<std::uint64_t>(ranks));
        trial.dense_rule = dense_rule;
        CHECK(cases::check_equivalence(trial) == "");
      }
  }

  TEST_CASE("sharded equals local: an empty first rank, batches without rows, ranks without rows") {
    for (const int ranks : {2, 3, 4})
      for (const auto cut : {cases::Cut::even, cases::Cut::uneven, cases::Cut::first_empty}) {
        auto trial = of_everything(ranks, 20);
        trial.cut = cut;
        trial.largest_batch = cut == cases::Cut::even ? 3 : 20;
        CHECK(cases::check_equivalence(trial) == "");
      }
  }

  TEST_CASE("sharded equals local: the gradient is clipped, and is not") {
    for (const int ranks : {2, 3, 4})
      for (const double clip_norm : {0.0, .02, .2, 100.0}) {
        auto trial = of_everything(ranks, 30);
        trial.clip_norm = clip_norm;
        CHECK(cases::check_equivalence(trial) == "");
      }
  }

  TEST_CASE("sharded equals local: several batches a step") {
    for (const int ranks : {2, 3, 4})
      for (const std::int64_t passes : {2, 3}) {
        auto trial = of_everything(ranks, 40);
        trial.passes = passes;
        trial.clip_norm = passes == 2 ? .1 : 0;
        CHECK(cases::check_equivalence(trial) == "");
      }
  }

  TEST_CASE("sharded equals local: a rank whose loss reaches no table, tables that no rank's loss reaches") {
    for (const int ranks : {2, 3, 4})
      for (const double unreached : {0.0, .5, 1.0}) {
        auto trial = of_everything(ranks, 50);
        trial.unreached = unreached;
        CHECK(cases::check_equivalence(trial) == "");
      }
  }

  TEST_CASE("sharded equals local: sample weights that require grad, as data and from a parameter") {
    for (const int ranks : {2, 3, 4})
      for (const auto weights : {cases::SampleWeights::differentiated, cases::SampleWeights::learned}) {
        auto trial = of_everything(ranks, 60);
        trial.sample_weights = weights;
        CHECK(cases::check_equivalence(trial) == "");
      }
  }

  TEST_CASE("sharded equals local: losses divided by rows, by weights, by nothing") {
    for (const int ranks : {2, 3, 4}) {
      auto trial = of_everything(ranks, 70);
      trial.divide_by = rk::DivideBy::rows;
      CHECK(cases::check_equivalence(trial) == "");
      trial.divides = false;
      trial.clip_norm = .5;
      CHECK(cases::check_equivalence(trial) == "");
    }
  }

  TEST_CASE("sharded equals local: columns split, and grids whose columns do not meet at the same rows") {
    for (const int ranks : {1, 2, 3, 4}) {
      auto trial = of_everything(ranks, 80);
      trial.clip_norm = .1;
      trial.sample_weights = cases::SampleWeights::differentiated;
      trial.placement.constraints.clear();
      const auto columns = [&](std::int64_t rows, std::int64_t first, std::int64_t dim) -> std::vector<rk::Shard> {
        return {{{0, rows, 0, first}, ranks - 1}, {{0, rows, first, dim}, 0}};
      };
      const auto staggered = [&](std::int64_t rows, std::int64_t first, std::int64_t dim) -> std::vector<rk::Shard> {
        return {{{0, rows / 3, 0, first}, 0},
                {{rows / 3, rows, 0, first}, 1 % ranks},
                {{0, rows / 2, first, dim}, 2 % ranks},
                {{rows / 2, rows, first, dim}, 3 % ranks}};
      };
      trial.placement.plan.tables = {{"sgd", columns(23, 1, 4)},
                                     {"rowwise_adagrad", staggered(31, 3, 7)},
                                     {"adagrad", rk::table_wise_shards(11, 1, ranks - 1)},
                                     {"adam", staggered(17, 2, 5)},
                                     {"frozen", columns(13, 2, 3)},
                                     {"weighted_adam", columns(29, 4, 6)},
                                     {"weighted_rowwise_adagrad", columns(19, 1, 3)},
                                     {"weighted_adagrad", rk::row_wise_shards(7, 9, ranks)},
                                     {"weighted_sgd", staggered(3, 1, 2)}};
      CHECK(cases::check_equivalence(trial) == "");
    }
  }

  TEST_CASE("sharded equals local: random models under random plans") {
    const auto first = from_environment("ROOKERY_SEED", 1);
    for (auto seed = first; seed < first + from_environment("ROOKERY_PLANS", 300); ++seed)
      CHECK(cases::check_equivalence(cases::draw_trial(seed)) == "");
  }

  TEST_CASE("sharded equals local in float32, at its tolerance") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) CHECK(cases::check_equivalence(cases::draw_trial(seed, 0, at::kFloat)) == "");
  }

  TEST_CASE("two runs from one seed are bit-identical, on every topology") {
    for (const int ranks : {1, 2, 4}) {
      const auto trial = of_everything(ranks, 90);
      const auto rounds = cases::draw_rounds(trial);
      const auto once = cases::train_sharded(trial, rounds), again = cases::train_sharded(trial, rounds);
      REQUIRE(once.size() == again.size());
      for (std::size_t i = 0; i < once.size(); ++i) CHECK_MESSAGE(at::equal(once[i].second, again[i].second), once[i].first);
    }
  }

  TEST_CASE("the comparison sees a difference in one tensor, and names its seed") {
    const auto trial = of_everything(2, 100);
    const auto rounds = cases::draw_rounds(trial);
    auto local = cases::train_locally(trial, rounds), sharded = cases::train_sharded(trial, rounds);
    REQUIRE(cases::compare(trial, local, sharded) == "");
    for (auto& [name, tensor] : sharded)
      if (name == "bags.embedding_bags.rowwise_adagrad.momentum1") tensor = tensor.mul(1 + 1e-10);
    const auto wrong = cases::compare(trial, local, sharded);
    CHECK(wrong.find("bags.embedding_bags.rowwise_adagrad.momentum1: difference") != std::string::npos);
    CHECK(wrong.find("1 of ") != std::string::npos);
    CHECK(wrong.find("seed 100 on 2 ranks") != std::string::npos);
    auto other = trial;
    other.clip_norm = .01;
    CHECK(cases::compare(trial, local, cases::train_sharded(other, rounds)) != "");
  }
}
