// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/embedding/table_collection.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {
namespace {

using cases::Draw;
using Set = Rules<Sgd, Adagrad>;

/// Sequences: rows of each id are multiplied by their position's weight and summed, so that every row's gradient differs.
struct Batch {
  KeyedJaggedTensor history;
  std::int64_t size() const { return history.stride(); }
};
struct Output {
  at::Tensor all;                                            // [n, D] of "a", [m, E] of "b" and "a@narrow", flattened
};
struct Reader {
  EmbeddingCollection<Set> items;
  static constexpr auto members() { return rookery::members("items", &Reader::items); }
  auto lookups(const Batch& b) const { return rookery::lookups(lookup<&Reader::items>(b.history)); }
  Output forward(const Batch&, const auto& found) {
    const auto& sequences = get<&Reader::items>(found);
    std::vector<at::Tensor> parts;
    for (const auto& key : sequences.keys()) {
      const auto& rows = sequences[key].values();
      parts.push_back(rows.mul(sequences[key].weights().unsqueeze(1)).reshape({-1}));
    }
    return {at::cat(parts)};
  }
};
Reader declared() {
  Reader reader{{{{.name = "wide", .num_embeddings = 7, .embedding_dim = 3, .feature_names = {"a", "b"}, .data_type = at::kDouble,
                   .optimizer = Adagrad{.learning_rate = .3, .eps = 1e-10}},
                  {.name = "narrow", .num_embeddings = 5, .embedding_dim = 2, .feature_names = {"a"}, .data_type = at::kDouble,
                   .optimizer = Sgd{.learning_rate = .1}}},
                 {.is_weighted = true}}};
  assign(reader, "items.embeddings.wide.weight", at::arange(21, at::kDouble).view({7, 3}).mul(.1));
  assign(reader, "items.embeddings.narrow.weight", at::arange(10, at::kDouble).view({5, 2}).mul(-.1));
  return reader;
}
/// Rows [begin, end) of a global batch of random sequences, some of them empty.
Batch drawn(std::uint64_t seed, std::int64_t begin, std::int64_t end) {
  Draw draw(seed);
  std::vector<std::int64_t> ids, lengths;
  std::vector<double> weights;
  for (int f = 0; f < 2; ++f)
    for (std::int64_t b = 0; b < 9; ++b) {
      const auto length = draw.integer(0, 3);
      if (b >= begin && b < end) lengths.push_back(length);
      for (std::int64_t i = 0; i < length; ++i) {
        const auto id = draw.integer(0, 4);
        const auto weight = draw.real(-1, 1);
        if (b < begin || b >= end) continue;
        ids.push_back(id);
        weights.push_back(weight);
      }
    }
  return {KeyedJaggedTensor::from_lengths({"b", "a"}, at::tensor(ids, at::kLong), at::tensor(lengths, at::kLong),
                                          at::tensor(weights, at::kDouble))};
}
template <class Topology> std::vector<at::Tensor> trained(Topology& topology, const Plan& plan, const std::vector<std::int64_t>& cuts) {
  ShardingPolicy sharding{topology, {.plan = plan}};
  auto loss = sum_loss([](const Output& o, const Batch&) { return o.all.square().sum(); });
  auto model = sharding.apply(ModelAndLoss<Reader, decltype(loss), Batch>{declared(), loss});
  Optimizer step{model, Sgd{}};
  for (std::uint64_t i = 0; i < 6; ++i) {
    const auto rank = static_cast<std::size_t>(topology.rank());
    model(drawn(i, cuts[rank], cuts[rank + 1])).loss.backward();
    step();
  }
  return {gather_table(model, "wide"), gather_table(model, "narrow"), gather_state(model, "wide", "momentum1")};
}

}  // namespace

TEST_SUITE("embedding/embedding_collection") {
  TEST_CASE("gives the row of every id in the batch's order, with lengths and weights; a shared feature appears as feature@table") {
    EmbeddingCollection<Set> tables{{{.name = "t", .num_embeddings = 4, .embedding_dim = 2, .feature_names = {"f", "g"}},
                                     {.name = "u", .num_embeddings = 3, .embedding_dim = 1, .feature_names = {"g"}}}};
    tables.assign("t", at::arange(8, at::kDouble).view({4, 2}));
    tables.assign("u", at::arange(3, at::kDouble).view({3, 1}).mul(10));
    auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
    const auto found = placed(
        KeyedJaggedTensor::from_lengths({"g", "f"}, at::tensor({2, 0, 2, 3, 3}, at::kLong), at::tensor({1, 0, 2, 0, 2, 0}, at::kLong)));
    CHECK(found.keys() == std::vector<std::string>{"f", "g@t", "g@u"});
    CHECK(at::equal(found["f"].values().detach(), at::tensor({6., 7., 6., 7.}).view({2, 2}).to(at::kFloat)));
    CHECK(at::equal(found["f"].lengths(), at::tensor({0, 2, 0}, at::kLong)));
    CHECK(at::equal(found["g@t"].values().detach(), at::tensor({4., 5., 0., 1., 4., 5.}).view({3, 2}).to(at::kFloat)));
    CHECK(at::equal(found["g@u"].values().detach(), at::tensor({20., 0., 20.}).view({3, 1}).to(at::kFloat)));
    CHECK(at::equal(found["g@u"].lengths(), at::tensor({1, 0, 2}, at::kLong)));
    CHECK(!found["f"].is_weighted());
    CHECK_THROWS_WITH_AS(found["h"], "KeyedSequences: no key 'h'; keys are [f, g@t, g@u]", IndexError);
    CHECK(found.size() == 3);
    CHECK(found.contains("g@t"));
    CHECK(!found.contains("g"));
    const auto features = found.to_dict();
    REQUIRE(features.size() == 3);
    CHECK(features[2].first == "g@u");
    CHECK(at::equal(features[2].second.values(), found["g@u"].values()));
    const auto none = placed(KeyedJaggedTensor::from_lengths({"g", "f"}, at::empty({0}, at::kLong), at::empty({0}, at::kLong)));
    CHECK(none["g@t"].values().sizes() == at::IntArrayRef{0, 2});
  }

  TEST_CASE("trains as a plain table of rows does: each row by the sum of its ids' gradients") {
    Local topology;
    const auto found = trained(topology, {}, {0, 9});
    auto wide = at::arange(21, at::kDouble).view({7, 3}).mul(.1), narrow = at::arange(10, at::kDouble).view({5, 2}).mul(-.1);
    auto sum = at::zeros({7, 3}, at::kDouble);
    for (std::uint64_t i = 0; i < 6; ++i) {
      const auto batch = drawn(i, 0, 9).history;
      auto of_wide = at::zeros({7, 3}, at::kDouble), of_narrow = at::zeros({5, 2}, at::kDouble);
      for (const auto* key : {"a", "b"}) {
        const auto feature = batch[key];
        const auto factor = feature.weights().square().mul(2).unsqueeze(1);                  // d/dx (w x)^2 = 2 w^2 x
        of_wide.index_add_(0, feature.values(), wide.index_select(0, feature.values()).mul(factor));
        if (std::string_view(key) == "a")
          of_narrow.index_add_(0, feature.values(), narrow.index_select(0, feature.values()).mul(factor));
      }
      sum.add_(of_wide.square());
      const auto touched = of_wide.ne(0);
      wide.sub_(at::where(touched, of_wide.mul(.3).div(sum.sqrt().add(1e-10)), at::zeros_like(wide)));
      narrow.sub_(of_narrow.mul(.1));
    }
    CHECK(found[0].sub(wide).abs().max().item<double>() < 1e-9);
    CHECK(found[1].sub(narrow).abs().max().item<double>() < 1e-12);
    CHECK(found[2].sub(sum).abs().max().item<double>() < 1e-12);
  }

  TEST_CASE("sharded by tables, rows and columns, with uneven and empty batches, equals one process") {
    Local local;
    const auto expected = trained(local, {}, {0, 9});
    const std::vector<Plan> plans{
        {{{"wide", table_wise_shards(7, 3, 1)}, {"narrow", table_wise_shards(5, 2, 0)}}},
        {{{"wide", row_wise_shards(7, 3, 3)}, {"narrow", {{{0, 5, 0, 1}, 2}, {{0, 5, 1, 2}, 0}}}}},
    };
    for (const auto& plan : plans)
      for (const auto& cuts : std::vector<std::vector<std::int64_t>>{{0, 3, 6, 9}, {0, 0, 7, 9}, {0, 9, 9, 9}})
        Threads::run(3, [&](Threads topology) {
          const auto found = trained(topology, plan, cuts);
          for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i].sub(expected[i]).abs().max().item<double>() < 1e-11);
        });
  }

  TEST_CASE("B3 no rows anywhere, rows without ids, ids on one rank only: values of no rows, tables as on one process") {
    const auto batch_of = [](const std::vector<std::int64_t>& lengths, std::int64_t ids) {
      const auto numbers = at::arange(ids, at::kLong);
      return KeyedJaggedTensor::from_lengths({"b", "a"}, numbers, at::tensor(lengths, at::kLong), numbers.to(at::kDouble).add(1));
    };
    const std::vector<KeyedJaggedTensor> batches{batch_of({}, 0), batch_of({0, 0, 0, 0, 0, 0, 0, 0}, 0),
                                                 batch_of({0, 0, 0, 2, 0, 0, 0, 3}, 5)};
    const auto run = [&](auto& topology, const Plan& plan) {
      auto loss = sum_loss([](const Output& o, const Batch&) { return o.all.square().sum(); });
      auto model = ShardingPolicy{topology, {.plan = plan}}.apply(ModelAndLoss<Reader, decltype(loss), Batch>{declared(), loss});
      Optimizer step{model, Sgd{}};
      std::vector<at::Tensor> found;
      for (const auto& batch : batches) {
        const auto begin = batch.stride() * topology.rank() / topology.world_size();
        const auto end = batch.stride() * (topology.rank() + 1) / topology.world_size();
        const auto [sum, output] = model({batch.slice(begin, end)});
        if (batch.values().numel() == 0) {
          CHECK(output.all.numel() == 0);
          CHECK(sum.template item<double>() == 0);
        }
        sum.backward();
        step();
        found.push_back(gather_table(model, "wide"));
        found.push_back(gather_table(model, "narrow"));
        found.push_back(gather_state(model, "wide", "momentum1"));
      }
      return found;
    };
    Local local;
    const auto expected = run(local, {});
    CHECK(at::equal(expected[3], at::arange(21, at::kDouble).view({7, 3}).mul(.1)));
    CHECK(expected[5].abs().max().item<double>() == 0);
    CHECK(!at::equal(expected[6], expected[3]));
    for (const int ranks : {1, 2, 3, 4})
      for (const bool by_rows : {true, false}) {
        const auto plan = by_rows ? Plan{{{"wide", row_wise_shards(7, 3, ranks)}, {"narrow", row_wise_shards(5, 2, ranks)}}}
                                  : Plan{{{"wide", table_wise_shards(7, 3, ranks - 1)}, {"narrow", table_wise_shards(5, 2, 0)}}};
        Threads::run(ranks, [&](Threads topology) {
          const auto found = run(topology, plan);
          for (std::size_t i = 0; i < found.size(); ++i)
            CHECK(found[i].sub(expected[i]).abs().max().template item<double>() < 1e-11);
        });
      }
  }

  TEST_CASE("a feature that the loss does not reach keeps its rows, weight decay or not, on every topology") {
    const auto run = [](auto& topology) {
      EmbeddingCollection<Set> tables{
          {{.name = "a", .num_embeddings = 3, .embedding_dim = 2, .optimizer = Sgd{.learning_rate = 1}},
           {.name = "b", .num_embeddings = 3, .embedding_dim = 2, .optimizer = Sgd{.learning_rate = 1, .weight_decay = .5}}}};
      tables.assign("a", at::arange(6, at::kDouble).view({3, 2}));
      tables.assign("b", at::arange(6, at::kDouble).view({3, 2}));
      ShardingPolicy sharding{topology, {.constraints = {{"b", {.kinds = {ShardingKind::row_wise}}}}}};
      auto model = sharding.apply(std::move(tables));
      Optimizer step{model, Sgd{}};
      const auto rank = topology.rank();
      model(KeyedJaggedTensor::from_lengths({"a", "b"}, at::tensor({rank, 2, 1, 0}, at::kLong), at::tensor({2, 2}, at::kLong)))["a"]
          .values()
          .sum()
          .backward();
      step();
      CHECK(at::equal(gather_table(model, "b"), at::arange(6, at::kFloat).view({3, 2})));
      CHECK(gather_table(model, "a")[2][0].template item<double>() == 4 - topology.world_size());
    };
    Local local;
    run(local);
    Threads::run(2, [&](Threads topology) { run(topology); });
  }

  TEST_CASE("tables that cannot be are refused under its own name") {
    CHECK_THROWS_WITH_AS(EmbeddingCollection<Set>({{.num_embeddings = 2, .embedding_dim = 2}}),
                         "EmbeddingCollection: table number 0 has no name", ConfigError);
  }
}

}  // namespace rookery
