// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/vocabulary_view.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/managed_collision.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Draw;
using Bags = EmbeddingBagCollection<Rules<Adagrad, RowwiseAdagrad>>;
using Saved = std::map<std::string, at::Tensor>;
using Ids = std::vector<std::int64_t>;

constexpr std::int64_t rows = 16, dim = 4, apart = 1'000'000'007;

/// Table "t" of managed collision, and "plain" whose ids are rows.
Bags declared(const ManagedCollision& ids, std::int64_t count = rows) {
  return {{.name = "t", .num_embeddings = count, .embedding_dim = dim, .data_type = at::kDouble,
           .optimizer = RowwiseAdagrad{.learning_rate = .1}, .managed_collision = ids},
          {.name = "plain", .num_embeddings = 2, .embedding_dim = 1, .data_type = at::kDouble}};
}
Plan plan_of(std::vector<Shard> shards) { return {{{"t", std::move(shards)}, {"plain", table_wise_shards(2, 1, 0)}}}; }

at::Tensor numbers(const Ids& ids) { return ids.empty() ? at::empty({0}, at::kLong) : at::tensor(ids, at::kLong); }
/// Every id that a run may see, and one that none sees.
at::Tensor all_ids() { return at::arange(31, at::kLong).mul(apart); }

/// Steps [begin, end) of a run whose batches ranks share out.
template <class Model, class Step> void train(Model& model, Step& step, int begin, int end) {
  const auto rank = model.topology().rank(), ranks = model.topology().world_size();
  for (int i = begin; i < end; ++i) {
    Draw draw(static_cast<std::uint64_t>(40 + i));
    Ids mine;
    for (int k = 0; k < 14; ++k)
      if (const auto id = draw.integer(0, 29) * apart; k % ranks == rank) mine.push_back(id);
    const auto n = static_cast<std::int64_t>(mine.size());
    const auto lengths = at::cat({at::ones({n}, at::kLong), at::full({n}, 0, at::kLong)});
    model(KeyedJaggedTensor::from_lengths({"t", "plain"}, numbers(mine), lengths)).values().square().sum().backward();
    step();
  }
}

/// Weights, optimizer state and vocabulary by name.
template <class Model> Saved saved(Model& model) {
  auto state = vocabulary_state(model);
  state["embedding_bags.t.weight"] = model.table("t").weight();
  state["embedding_bags.t.weight.momentum1"] = model.table("t").state("momentum1");
  return state;
}
/// Gives a model that was just placed what `saved` gave, by name; the vocabulary's part is taken out of it.
template <class Model, class Step> void load(Model& model, Step& step, Saved state) {
  const auto weight = state.extract("embedding_bags.t.weight").mapped();                     // [E, D]
  model.table("t").write(at::arange(model.topology().rank() == 0 ? rows : 0, at::kLong),
                         weight.narrow(0, 0, model.topology().rank() == 0 ? rows : 0));
  const auto momentum = state.extract("embedding_bags.t.weight.momentum1").mapped();         // [E]
  step.for_each_state([&](const OptimizerState& one) {
    if (one.parameter == "embedding_bags.t.weight") one.tensor.copy_(momentum.narrow(0, one.box->row_begin, one.box->rows()));
  });
  load_vocabulary_state(model, state);
}

struct Run {
  Saved half, whole;                   // after 3 steps, and after 9
  at::Tensor remapped, values;         // of all_ids(), after 9
};
/// Nine steps at once; or six, from what a run had after three.
template <class Topology> Run run(Topology& topology, const Plan& plan, const ManagedCollision& ids, const Saved* from = nullptr) {
  Run result;
  ShardingPolicy sharding{topology, {.plan = plan, .seed = 3}};
  auto model = sharding.apply(declared(ids));
  Optimizer step{model, Adagrad{}};
  if (from) load(model, step, *from);
  else train(model, step, 0, 3);
  result.half = saved(model);
  train(model, step, 3, 9);
  result.whole = saved(model);
  result.remapped = model.table("t").vocabulary().remap(all_ids());
  result.values = model.table("t").rows_of_ids(all_ids());
  return result;
}
void check_equal(const Saved& found, const Saved& expected, double tolerance) {
  CHECK(found.size() == expected.size());
  for (const auto& [name, tensor] : expected) {
    const auto& other = found.at(name);
    if (tensor.scalar_type() == at::kLong || tolerance == 0) CHECK_MESSAGE(at::equal(other, tensor), name);
    else CHECK_MESSAGE(other.sub(tensor).abs().max().item<double>() <= tolerance, name);
  }
}

const ManagedCollision lru{.eviction = Eviction::lru, .threshold = 1, .interval = 2, .buckets = 4};

/// Plans for two ranks: by rows; by rows and columns, buckets on both; on one rank.
std::vector<Plan> two_rank_plans() {
  return {plan_of(row_wise_shards(rows, dim, 2, 4)), plan_of({{{0, 4, 0, 4}, 1}, {{4, 16, 0, 1}, 0}, {{4, 16, 1, 4}, 1}}),
          plan_of(table_wise_shards(rows, dim, 1))};
}

}  // namespace

TEST_SUITE("sharding/vocabulary_view") {
  TEST_CASE("raw ids have the rows and values that lookups give them, on every rank and plan; looking counts no sighting") {
    Local local;
    const auto expected = run(local, {}, lru);
    CHECK(expected.remapped.max().item<std::int64_t>() < rows);
    CHECK(at::equal(expected.values, expected.whole.at("embedding_bags.t.weight").index_select(0, expected.remapped)));
    for (const auto& plan : two_rank_plans())
      Threads::run(2, [&](Threads topology) {
        ShardingPolicy sharding{topology, {.plan = plan, .seed = 3}};
        auto model = sharding.apply(declared(lru));
        Optimizer step{model, Adagrad{}};
        train(model, step, 0, 9);
        const auto table = model.table("t");
        CHECK(at::equal(table.vocabulary().remap(all_ids()), expected.remapped));
        const auto before = table.vocabulary().state();
        const auto some = topology.rank() == 0 ? at::empty({0}, at::kLong) : all_ids().narrow(0, 3, 20);
        const auto values = table.rows_of_ids(some);                                         // [0 or 20, D]
        const auto rows_here = table.vocabulary().remap(some.to(at::kLong));
        CHECK(at::equal(rows_here, topology.rank() == 0 ? some : expected.remapped.narrow(0, 3, 20)));
        model.train(false);
        const auto n = some.numel();
        const auto lengths = at::cat({at::ones({n}, at::kLong), at::full({n}, 0, at::kLong)});
        const auto looked = model(KeyedJaggedTensor::from_lengths({"t", "plain"}, some, lengths)).values();
        CHECK(at::equal(values, looked.narrow(1, 0, dim)));
        check_equal(table.vocabulary().state(), before, 0);
      });
  }

  TEST_CASE("the state says which id has which row, names as TorchRec's") {
    Local local;
    ShardingPolicy sharding{local};
    auto model = sharding.apply(declared({.eviction = Eviction::lfu, .threshold = 2}));
    Optimizer step{model, Adagrad{}};
    const auto see = [&](const Ids& ids) {
      const auto n = static_cast<std::int64_t>(ids.size());
      const auto lengths = at::cat({at::ones({n}, at::kLong), at::full({n}, 0, at::kLong)});
      model(KeyedJaggedTensor::from_lengths({"t", "plain"}, numbers(ids), lengths)).values().sum().backward();
      step();
    };
    see({9, -5, 9});
    see({9, 70, 70});
    const auto state = model.table("t").vocabulary().state();
    CHECK(state.size() == 7);
    const auto is = [&](const std::string& name, const Ids& expected) {
      CHECK_MESSAGE(at::equal(state.at("embedding_bags.t." + name), numbers(expected)), name);
    };
    is("mch_sorted_raw_ids", {-5, 9, 70});
    is("mch_remapped_ids_mapping", {-1, 0, 1});                // one sighting is too few
    is("mch_counts", {1, 3, 2});
    is("mch_last_access_iter", {1, 2, 2});
    CHECK(state.at("embedding_bags.t.mch_current_iter").item<std::int64_t>() == 2);
    CHECK(state.at("embedding_bags.t.mch_zch_size").item<std::int64_t>() == rows);
    CHECK(state.at("embedding_bags.t.mch_buckets").item<std::int64_t>() == 1);
    CHECK(at::equal(model.table("t").vocabulary().remap(numbers({70, -5, 9, 8})), numbers({1, 15, 0, 15})));
    CHECK(vocabulary_state(model).size() == 7);
  }

  TEST_CASE("weights, optimizer state and vocabulary saved by name go on in another model as if nothing had been") {
    for (const auto eviction : {Eviction::lru, Eviction::lfu, Eviction::distance_lfu}) {
      const ManagedCollision ids{.eviction = eviction, .threshold = 2, .interval = 2, .buckets = 4, .decay = .5, .candidates = 3};
      Local local;
      const auto one = run(local, {}, ids);
      const auto again = run(local, {}, ids, &one.half);
      check_equal(again.half, one.half, 0);
      check_equal(again.whole, one.whole, 0);
      CHECK(at::equal(again.values, one.values));
      for (const auto& plan : two_rank_plans())
        Threads::run(2, [&](Threads topology) {
          const auto uninterrupted = run(topology, plan, ids);
          const auto continued = run(topology, plan, ids, &uninterrupted.half);
          check_equal(continued.half, uninterrupted.half, 0);
          check_equal(continued.whole, uninterrupted.whole, 0);
          const auto moved = run(topology, plan, ids, &one.half);          // from one process
          check_equal(moved.half, one.half, 0);
          check_equal(moved.whole, one.whole, 1e-11);
        });
      Threads::run(3, [&](Threads topology) {                              // on three ranks, then in one process
        const auto three = run(topology, plan_of(row_wise_shards(rows, dim, 3, 4)), ids, &one.half);
        check_equal(three.whole, one.whole, 1e-11);
        if (topology.rank() != 2) return;
        Local alone;
        const auto back = run(alone, {}, ids, &three.half);
        check_equal(back.whole, one.whole, 0);
      });
    }
  }

  TEST_CASE("a state that does not fit is refused in one sentence, and nothing is changed") {
    Local local;
    const auto good = [&] {
      auto state = run(local, {}, lru).half;
      state.erase("embedding_bags.t.weight");
      state.erase("embedding_bags.t.weight.momentum1");
      return state;
    }();
    ShardingPolicy sharding{local};
    auto model = sharding.apply(declared(lru));
    load_vocabulary_state(model, good);
    const auto changed = [&](const std::string& name, at::Tensor tensor) {
      auto state = good;
      for (auto& [key, one] : state) one = one.clone();
      state["embedding_bags.t." + name] = std::move(tensor);
      return state;
    };
    const auto count = good.at("embedding_bags.t.mch_counts").size(0);
    CHECK_THROWS_WITH_AS(load_vocabulary_state(model, {}),
                         "table 'embedding_bags.t': the state of its vocabulary has no entry 'embedding_bags.t.mch_sorted_raw_ids'",
                         IndexError);
    CHECK_THROWS_WITH_AS(load_vocabulary_state(model, changed("weight", at::ones({1}))),
                         "load_vocabulary_state: entry 'embedding_bags.t.weight' belongs to no vocabulary of the model; it has 1",
                         IndexError);
    model.table("t").vocabulary().load_state(changed("weight", at::ones({1})));   // takes its own
    CHECK_THROWS_WITH_AS(load_vocabulary_state(model, changed("mch_counts", at::ones({1}, at::kLong))),
                         doctest::Contains("entry 'embedding_bags.t.mch_counts' has shape [1] and dtype Long; it must be int64 ["),
                         ShapeError);
    CHECK_THROWS_WITH_AS(load_vocabulary_state(model, changed("mch_current_iter", at::full({}, 1.5, at::kDouble))),
                         "entry 'embedding_bags.t.mch_current_iter' has shape [] and dtype Double; it must be int64 []", ShapeError);
    CHECK_THROWS_WITH_AS(load_vocabulary_state(model, changed("mch_remapped_ids_mapping", at::full({count}, 15, at::kLong))),
                         doctest::Contains("table 'embedding_bags.t': CollisionVocabulary: id "), DataError);
    CHECK_THROWS_WITH_AS(
        load_vocabulary_state(model, changed("mch_counts", at::full({count}, std::numeric_limits<std::int64_t>::max(), at::kLong))),
        doctest::Contains("sightings; no run has more than"), DataError);
    CHECK_THROWS_AS(load_vocabulary_state(model, changed("mch_last_access_iter", at::full({count}, 99, at::kLong))), DataError);
    CHECK_THROWS_AS(load_vocabulary_state(model, changed("mch_sorted_raw_ids", at::full({count}, 7, at::kLong))), DataError);
    check_equal(vocabulary_state(model), good, 0);

    auto other = sharding.apply(declared({.buckets = 2}));
    CHECK_THROWS_WITH_AS(load_vocabulary_state(other, good),
                         "table 'embedding_bags.t' has 16 rows in 2 buckets of managed collision and the vocabulary is of 16 rows in 4; "
                         "an id's bucket follows from their number, so both must be the same, while plan and ranks may differ",
                         DataError);
    auto larger = sharding.apply(declared(lru, 32));
    CHECK_THROWS_AS(load_vocabulary_state(larger, good), DataError);
    CHECK_THROWS_WITH_AS(model.table("plain").vocabulary(),
                         "table 'embedding_bags.plain' has no managed collision; an id is the number of its row", ConfigError);
    CHECK_THROWS_AS(model.table("t").vocabulary().remap(at::ones({2})), ShapeError);
    CHECK_THROWS_WITH_AS(Threads::run(2,
                                      [&](Threads topology) {
                                        ShardingPolicy on_threads{topology, {.plan = two_rank_plans()[0]}};
                                        auto sharded = on_threads.apply(declared(lru));
                                        load_vocabulary_state(
                                            sharded, topology.rank() == 0 ? good : changed("mch_counts", at::full({count}, 2, at::kLong)));
                                      }),
                         doctest::Contains("load_vocabulary_state: ranks differ: rank 0 has 'embedding_bags.t: a vocabulary of "),
                         ConfigError);
  }
}

}  // namespace rookery
