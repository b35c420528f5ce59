// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Tables of float16 and bfloat16: what is looked up, what is learned, and that every plan rounds alike.
#include <rookery/embedding/embedding_bag_collection.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/embedding/assign.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/weight_logger.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/lars_sgd.hpp>
#include <rookery/rules/partial_rowwise_adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Draw;
using Tables = EmbeddingBagCollection<Rules<Sgd, RowwiseAdagrad>>;
using EveryRule = Rules<Sgd, MomentumSgd, Adagrad, RowwiseAdagrad, Adam, AdamW, PartialRowwiseAdam, Lamb, PartialRowwiseLamb, LarsSgd>;

constexpr std::int64_t rows = 20, dim = 6;

Tables narrow(at::ScalarType dtype, RuleChoice<Rules<Sgd, RowwiseAdagrad>> rule, bool stochastic = true) {
  return {
      {.name = "t", .num_embeddings = rows, .embedding_dim = dim, .data_type = dtype, .optimizer = rule, .stochastic_rounding = stochastic},
      {.name = "wide", .num_embeddings = 4, .embedding_dim = 2}};
}
KeyedJaggedTensor bags(const std::vector<std::int64_t>& ids) {
  const auto count = static_cast<std::int64_t>(ids.size());
  const auto values = at::tensor(ids, at::kLong);
  return KeyedJaggedTensor::from_lengths({"t", "wide"}, at::cat({values, values.remainder(4)}), at::ones({2 * count}, at::kLong));
}

/// Trains a few steps on ids that all ranks share out, and gives the table and its state.
template <class Topology> std::vector<at::Tensor> trained(Topology& topology, at::ScalarType dtype, const Plan& plan) {
  ShardingPolicy sharding{topology, {.plan = plan, .seed = 5}};
  auto model = sharding.apply(narrow(dtype, RowwiseAdagrad{.learning_rate = .01}));
  Optimizer step{model, Sgd{}};
  Draw draw(2);
  for (int i = 0; i < 12; ++i) {
    std::vector<std::int64_t> ids, mine;
    for (int k = 0; k < 12; ++k) ids.push_back(draw.integer(0, rows - 1));
    const auto begin = ids.size() * static_cast<std::size_t>(topology.rank()) / static_cast<std::size_t>(topology.world_size());
    const auto end = ids.size() * static_cast<std::size_t>(topology.rank() + 1) / static_cast<std::size_t>(topology.world_size());
    mine.assign(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end));
    const auto out = model(bags(mine)).values();
    out.mul(at::arange(1, dim + 3, at::kFloat)).sum().backward();
    step();
  }
  return {gather_table(model, "t"), gather_state(model, "t", "momentum1")};
}

}  // namespace

TEST_SUITE("embedding/narrow_tables") {
  TEST_CASE("float16 and bfloat16 rows are looked up as float32, beside float32 tables") {
    for (const auto dtype : {at::kHalf, at::kBFloat16}) {
      auto tables = narrow(dtype, Sgd{});
      const auto values = at::arange(rows * dim, at::kDouble).mul(.01).view({rows, dim});
      tables.assign("t", values);
      ShardingPolicy<Local> sharding;
      auto model = sharding.apply(std::move(tables));
      const auto out = model(bags({3, 19, 3}));
      CHECK((out["t"].scalar_type() == at::kFloat));
      CHECK(at::equal(out["t"].detach(), values.to(dtype).to(at::kFloat).index_select(0, at::tensor({3, 19, 3}, at::kLong))));
      CHECK(model.tables()[0].description.bytes() == rows * dim * 2);
      CHECK((gather_table(model, "t").scalar_type() == dtype));
      const auto norms = WeightLogger<L2Norm>{model}(model);
      CHECK(norms.size() >= 2);
    }
  }

  TEST_CASE("steps smaller than the dtype's are learned in the mean with stochastic rounding, and lost without") {
    for (const auto dtype : {at::kHalf, at::kBFloat16})
      for (const bool stochastic : {true, false}) {
        auto tables = narrow(dtype, Sgd{.learning_rate = 1e-5}, stochastic);
        tables.assign("t", at::ones({rows, dim}));
        ShardingPolicy<Local> sharding;
        auto model = sharding.apply(std::move(tables));
        Optimizer step{model, Sgd{}};
        std::vector<std::int64_t> all;
        for (std::int64_t id = 0; id < rows; ++id) all.push_back(id);
        for (int i = 0; i < 2000; ++i) {
          model(bags(all)).values().sum().backward();
          step();
        }
        const double mean = gather_table(model, "t").to(at::kDouble).mean().item<double>();
        CAPTURE(c10::toString(dtype));
        if (stochastic) CHECK(mean == doctest::Approx(.98).epsilon(.005));
        else CHECK(mean == 1);
      }
  }

  TEST_CASE("every rule on float16 and bfloat16 tables gives the float32 table's rows, rounded, on random shapes") {
    Draw draw(17);
    for (int trial = 0; trial < 400; ++trial) {
      const auto dtype = trial % 2 == 0 ? at::kHalf : at::kBFloat16;
      const auto many = draw.integer(1, 12), width = draw.integer(1, 40), bags_count = draw.integer(0, 9);
      const std::vector<RuleChoice<EveryRule>> choices{Sgd{.learning_rate = .1, .weight_decay = .01},
                                                       MomentumSgd{.learning_rate = .1},
                                                       Adagrad{.learning_rate = .1},
                                                       RowwiseAdagrad{.learning_rate = .1},
                                                       Adam{.learning_rate = .1},
                                                       AdamW{.learning_rate = .1},
                                                       PartialRowwiseAdam{.learning_rate = .1},
                                                       Lamb{.learning_rate = .1},
                                                       PartialRowwiseLamb{.learning_rate = .1},
                                                       LarsSgd{.learning_rate = .1}};
      const auto& rule = choices[static_cast<std::size_t>(trial / 2) % choices.size()];
      CAPTURE(rule.name());
      std::vector<std::int64_t> ids, lengths;
      for (std::int64_t b = 0; b < bags_count; ++b) {
        lengths.push_back(draw.integer(0, 4));
        for (std::int64_t i = 0; i < lengths.back(); ++i) ids.push_back(draw.integer(0, many - 1));
      }
      const auto features = KeyedJaggedTensor::from_lengths({"t"}, at::tensor(ids, at::kLong), at::tensor(lengths, at::kLong));
      const auto start = draw.tensor({many, width}).to(dtype);
      const auto gradient = draw.tensor({bags_count, width}).to(at::kFloat);
      const auto stepped = [&](at::ScalarType type) {
        EmbeddingBagCollection<EveryRule> tables{{.name = "t",
                                                  .num_embeddings = many,
                                                  .embedding_dim = width,
                                                  .data_type = type,
                                                  .optimizer = rule,
                                                  .stochastic_rounding = false}};
        tables.assign("t", start);
        auto model = ShardingPolicy<Local>{}.apply(std::move(tables));
        Optimizer step{model, Sgd{}};
        auto out = model(features).values();
        out.mul(gradient).sum().backward();
        step();
        return std::pair(out.detach(), gather_table(model, "t"));
      };
      const auto [wide_out, wide] = stepped(at::kFloat);
      const auto [narrow_out, narrowed] = stepped(dtype);
      CHECK(at::equal(narrow_out, wide_out));
      CHECK(at::equal(narrowed, wide.to(dtype)));
    }
  }

  TEST_CASE("every plan and number of ranks rounds alike") {
    for (const auto dtype : {at::kHalf, at::kBFloat16}) {
      Local local;
      const auto expected = trained(local, dtype, {});
      const std::vector<Plan> plans{
          {{{"t", row_wise_shards(rows, dim, 2)}, {"wide", table_wise_shards(4, 2, 1)}}},
          {{{"t", {{{0, rows, 0, 2}, 1}, {{0, rows, 2, dim}, 0}}}, {"wide", table_wise_shards(4, 2, 0)}}},
      };
      for (const auto& plan : plans)
        Threads::run(2, [&](Threads topology) {
          const auto found = trained(topology, dtype, plan);
          CHECK(found[1].allclose(expected[1], 1e-5, 1e-6));
          // float32 sums in another order may move a weight across a rounding edge: a step apart at most, and seldom
          const auto apart = found[0].to(at::kFloat).sub(expected[0].to(at::kFloat)).abs();
          CHECK(apart.max().item<double>() <= (dtype == at::kHalf ? 0x1p-10 : 0x1p-7));
          CHECK(apart.gt(0).sum().item<std::int64_t>() <= 3);
        });
    }
  }
}

}  // namespace rookery
