// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/placed.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Set = Rules<Sgd, RowwiseAdagrad>;

struct Batch {
  KeyedJaggedTensor queries, items;
  std::int64_t size() const { return queries.stride(); }
};
struct Tower {
  EmbeddingBagCollection<Set> tables;
  Mlp over;
  static constexpr auto members() { return rookery::members("tables", &Tower::tables, "over", &Tower::over); }
};
struct Output {
  at::Tensor logits;                                         // [B]
};
struct TwoTower {
  Tower query, item;
  Buffer scale{{1}};
  static constexpr auto members() {
    return rookery::members("query", &TwoTower::query, "item", &TwoTower::item, "scale", &TwoTower::scale);
  }
  auto lookups(const Batch& b) const {
    return rookery::lookups(lookup<&TwoTower::query, &Tower::tables>(b.queries), lookup<&TwoTower::item, &Tower::tables>(b.items));
  }
  Output forward(const Batch&, const auto& pooled) {
    return {query.over(get<&TwoTower::query, &Tower::tables>(pooled).values())
                .mul(item.over(get<&TwoTower::item, &Tower::tables>(pooled).values()))
                .sum(1)};
  }
};
struct Sum {
  static constexpr bool divides = false;
  at::Tensor operator()(const Output& output, const Batch&) const { return output.logits.sum(); }
};
using Declared = ModelAndLoss<TwoTower, Sum, Batch>;

Tower tower(Initial initial = Uniform{}) {
  return {{{{.name = "id", .num_embeddings = 20, .embedding_dim = 6, .initial = initial},
            {.name = "other", .num_embeddings = 9, .embedding_dim = 3}}},
          {9, {4, 2}}};
}
Declared declared(Initial initial = Uniform{}) { return {{tower(initial), tower(initial)}, {}}; }
const ShardingOptions in_rows{.constraints = {{"query.tables.embedding_bags.id", {.kinds = {ShardingKind::row_wise}}}}};

KeyedJaggedTensor ids(const std::vector<std::int64_t>& id, const std::vector<std::int64_t>& other) {
  const auto one = [](const std::string& key, const std::vector<std::int64_t>& values) {
    return KeyedJaggedTensor::from_lengths({key}, at::tensor(values, at::kLong),
                                           at::ones({static_cast<std::int64_t>(values.size())}, at::kLong));
  };
  const std::vector<KeyedJaggedTensor> parts{one("id", id), one("other", other)};
  return KeyedJaggedTensor::concat(parts);
}
Batch batch() { return {ids({1, 19, 3}, {0, 8, 8}), ids({2, 2, 0}, {1, 2, 3})}; }

/// Everything that is trained, by name.
template <class Model> std::vector<std::pair<std::string, at::Tensor>> weights_of(Model& model) {
  std::vector<std::pair<std::string, at::Tensor>> found;
  for (const auto& table : model.tables()) found.emplace_back(table.description.name, gather_table(model, table.description.name));
  model.for_each_parameter(
      [&](std::string_view name, const Parameter& parameter) { found.emplace_back(name, parameter.tensor().detach().clone()); });
  return found;
}

struct DenseOnly {
  Mlp over{2, {3, 1}};
  static constexpr auto members() { return rookery::members("over", &DenseOnly::over); }
  template <class B> Output forward(const B& b) { return {over(b.x).squeeze(1)}; }
};
struct DenseBatch {
  at::Tensor x;
  std::int64_t size() const { return x.size(0); }
};
at::Tensor sum_of(const Output& output, const DenseBatch&) { return output.logits.sum(); }

/// A law of a user's.
double hashed(std::uint64_t key, std::int64_t element) {
  return static_cast<double>(mix64(key + static_cast<std::uint64_t>(element)) >> 40) * 0x1p-24;
}

using Placed = decltype(ShardingPolicy<Local>().apply(std::declval<Declared>()));
static_assert(!std::is_copy_constructible_v<Placed> && !std::is_move_constructible_v<Placed> && !std::is_copy_assignable_v<Placed>);
static_assert(std::is_same_v<Placed, Sharded<Declared, Local>>);
static_assert(sizeof(ModelAndLoss<TwoTower, Sum, Batch>) == sizeof(TwoTower), "an empty loss costs no byte");

}  // namespace

TEST_SUITE("sharding/sharding_policy") {
  TEST_CASE("initial values are the same for every plan and number of ranks, and differ by seed and by name") {
    for (const Initial initial : {Initial{Uniform{}}, Initial{Uniform{.min = .5, .max = 2}}, Initial{Normal{.5}}, Initial{Zeros{}},
                                  Initial{OwnLaw{"hashed", &hashed}}}) {
      auto with_seed = in_rows;
      with_seed.seed = 3;
      const ShardingPolicy<Local> here(ShardingOptions{.seed = 3});
      auto local = here.apply(declared(initial));
      const auto expected = weights_of(local);
      CHECK(expected.size() == 12);
      CHECK(expected[0].first == "query.tables.embedding_bags.id");
      CHECK(expected[4].first == "query.over.layers.0.weight");
      CHECK(at::equal(expected[0].second, expected[2].second) == std::holds_alternative<Zeros>(initial));
      for (const int ranks : {1, 2, 3, 5})
        Threads::run(ranks, [&](Threads topology) {
          auto model = ShardingPolicy(topology, with_seed).apply(declared(initial));
          const auto found = weights_of(model);
          for (std::size_t i = 0; i < found.size(); ++i) CHECK_MESSAGE(at::equal(found[i].second, expected[i].second), found[i].first);
        });
      if (std::holds_alternative<Zeros>(initial)) continue;
      auto other = ShardingPolicy<Local>(ShardingOptions{.seed = 4}).apply(declared(initial));
      const auto otherwise = weights_of(other);
      for (std::size_t i = 0; i < otherwise.size(); ++i) CHECK(!at::equal(otherwise[i].second, expected[i].second));
    }
  }

  TEST_CASE("only this rank's shards are allocated") {
    Threads::run(4, [](Threads topology) {
      auto model = ShardingPolicy(topology, in_rows).apply(declared());
      std::int64_t rows = 0;
      for (const auto& shard : model.model().query.tables.shards()) rows += shard.table == 0 ? shard.storage.rows() : 0;
      CHECK(rows == 5);
      for (const auto& table : model.tables())
        for (const auto& shard : table.shards) CHECK((shard.local != nullptr) == (shard.rank == topology.rank()));
    });
  }

  TEST_CASE("assigned values win, and of dense ones and buffers those of rank 0") {
    Threads::run(3, [](Threads topology) {
      auto given = declared();
      const double mine = topology.rank() + 1;
      assign(given.model, "query.tables.embedding_bags.id.weight", at::full({20, 6}, 7.0));
      assign(given.model, "query.over.layers.0.weight", at::full({4, 9}, mine));
      assign(given.model, "scale", at::full({1}, mine));
      auto model = ShardingPolicy(topology, in_rows).apply(std::move(given));
      CHECK(at::equal(gather_table(model, "query.tables.embedding_bags.id"), at::full({20, 6}, 7.0)));
      CHECK(at::equal(model.model().query.over.layers[0].weight.tensor().detach(), at::ones({4, 9})));
      CHECK(at::equal(model.model().scale.tensor(), at::ones({1})));
    });
  }

  TEST_CASE("maybe_shard_model is the same in one call") {
    Threads::run(2, [](Threads topology) {
      auto one = ShardingPolicy(topology, in_rows).apply(declared());
      auto other = maybe_shard_model(declared(), topology, in_rows);
      static_assert(std::is_same_v<decltype(one), decltype(other)>);
      CHECK(one.plan().report() == other.plan().report());
      CHECK(at::equal(one.predict(batch()).logits, other.predict(batch()).logits));
    });
  }

  TEST_CASE("a collection alone is placed for scripts") {
    auto local = ShardingPolicy<Local>{}.apply(EmbeddingBagCollection<Set>{{.name = "id", .num_embeddings = 20, .embedding_dim = 6}});
    const auto features = KeyedJaggedTensor::from_lengths({"id"}, at::tensor({3, 4, 3}, at::kLong), at::tensor({1, 2}, at::kLong));
    const auto expected = local(features);
    CHECK(expected.keys() == std::vector<std::string>{"id"});
    CHECK(expected.values().sizes() == at::IntArrayRef({2, 6}));
    Threads::run(2, [&](Threads topology) {
      auto model = ShardingPolicy(topology).apply(EmbeddingBagCollection<Set>{{.name = "id", .num_embeddings = 20, .embedding_dim = 6}});
      CHECK(at::equal(model(features).values().detach(), expected.values().detach()));
    });
  }

  TEST_CASE("a model without tables trains on every topology") {
    const auto train = [](auto& topology, const at::Tensor& x) {
      auto model = maybe_shard_model(ModelAndLoss<DenseOnly, SumLoss<decltype(&sum_of)>, DenseBatch>{{}, {&sum_of}}, topology);
      CHECK(model.tables().empty());
      CHECK(model.plan().report().find("0 tables") != std::string::npos);
      Optimizer step(model, Sgd{.learning_rate = .1});
      model({x}).loss.backward();
      step();
      return model.model().over.layers[0].weight.tensor().detach().clone();
    };
    const auto x = cases::Draw(1).tensor({6, 2}, at::kFloat);
    Local local;
    const auto expected = train(local, x);
    Threads::run(2, [&](Threads topology) { CHECK(train(topology, x.narrow(0, topology.rank() * 3, 3)).allclose(expected, 1e-6, 1e-6)); });
  }

  TEST_CASE("prediction keeps nothing, requires nothing and equals what training sees") {
    Threads::run(2, [](Threads topology) {
      auto model = maybe_shard_model(declared(), topology, in_rows);
      const auto predicted = model.predict(batch()).logits;
      CHECK(!predicted.requires_grad());
      CHECK(model.runtime().captures().empty());
      const auto [loss, output] = model(batch());
      CHECK(loss.requires_grad());
      CHECK(model.runtime().captures().size() == 1);
      CHECK(at::equal(output.logits.detach(), predicted));
      model.train(false);
      CHECK(!model.is_training());
      CHECK(!model(batch()).loss.requires_grad());
      model.train();
      {
        const at::NoGradGuard no_grad;
        CHECK(!model(batch()).loss.requires_grad());
      }
      CHECK(model.runtime().captures().size() == 1);
    });
  }

  TEST_CASE("plans that do not fit the model are refused before anything is allocated") {
    const auto apply = [](Plan plan) {
      Threads::run(2, [&](Threads topology) { ShardingPolicy(topology, {.plan = plan}).apply(declared()); });
    };
    CHECK_THROWS_AS(apply({{{"nowhere", {}}}}), PlanError);
    CHECK_THROWS_AS(apply({{{"query.tables.embedding_bags.id", table_wise_shards(20, 6, 0)}}}),
                    PlanError);  // the other tables have no shards
    CHECK_THROWS_AS(ShardingPolicy<Local>(ShardingOptions{.constraints = {{"id", {}}}}).apply(declared()),
                    PlanError);  // two tables are called id
    CHECK_THROWS_AS(
        ShardingPolicy<Local>(ShardingOptions{.constraints = {{"query.tables.embedding_bags.id", {.ranks = {1}}}}}).apply(declared()),
        PlanError);
  }

  TEST_CASE("constraints beside a plan are refused, which it would not look at") {
    ShardingOptions options{.plan = {{{"id", table_wise_shards(20, 6, 0)}}},
                            .constraints = {{"id", {.kinds = {ShardingKind::row_wise}}}}};
    const auto apply = [&] {
      ShardingPolicy<Local>(options).apply(EmbeddingBagCollection<Set>{{.name = "id", .num_embeddings = 20, .embedding_dim = 6}});
    };
    CHECK_THROWS_WITH_AS(apply(),
                         "ShardingPolicy: there are constraints, on 'id' first, beside a plan for 1 tables, which says all that they could; "
                         "leave out one or the other",
                         ConfigError);
    options.constraints.clear();
    CHECK_NOTHROW(apply());
  }

  TEST_CASE("a plan that was made for a table of another size is refused") {
    const auto planned = [](std::int64_t rows, const Plan& given) {
      Plan plan;
      Threads::run(2, [&](Threads topology) {
        auto model = ShardingPolicy(topology, {.plan = given})
                         .apply(EmbeddingBagCollection<Set>{{.name = "id", .num_embeddings = rows, .embedding_dim = 6}});
        if (topology.rank() == 0) plan = model.plan();
      });
      return plan;
    };
    const auto saved = planned(20, {});
    CHECK((planned(20, saved).tables == saved.tables));
    CHECK_THROWS_WITH_AS(planned(24, saved),
                         doctest::Contains("Plan: it is for a table 'embedding_bags.id' of [20, 6] Float, and the model's is [24, 6] "
                                           "Float"),
                         PlanError);
  }

  TEST_CASE("nodes of 4 and 2 ranks train under plans that are not made of nodes, as one process, and refuse the others") {
    struct Uneven : Threads {
      explicit Uneven(Threads base) : Threads(std::move(base)) {}
      int local_world_size() const { return rank() < 4 ? 4 : 2; }
    };
    const auto step_once = [](auto& topology, const ShardingOptions& options, std::int64_t begin, std::int64_t end) {
      auto model = maybe_shard_model(declared(), topology, options);
      Optimizer step(model, Sgd{.learning_rate = .1});
      const auto all = batch();
      const Batch mine{all.queries.slice(begin, end), all.items.slice(begin, end)};
      model(mine).loss.backward();
      step();
      return weights_of(model);
    };
    Local local;
    const auto expected = step_once(local, {}, 0, 3);
    auto mixed = in_rows;
    mixed.constraints["item.tables.embedding_bags.id"] = {.kinds = {ShardingKind::column_wise}, .min_partition = 4};
    mixed.constraints["item.tables.embedding_bags.other"] = {.kinds = {ShardingKind::data_parallel}};
    Threads::run(6, [&](Threads threads) {
      Uneven topology(std::move(threads));
      const auto rank = topology.rank();
      const auto found = step_once(topology, mixed, std::min(rank, 3), std::min(rank + 1, 3));
      for (std::size_t i = 0; i < found.size(); ++i)
        CHECK_MESSAGE(found[i].second.allclose(expected[i].second, 1e-5, 1e-6), found[i].first);
    });
    mixed.constraints["item.tables.embedding_bags.id"].kinds = {ShardingKind::grid_shard};
    CHECK_THROWS_WITH_AS(Threads::run(6,
                                      [&](Threads threads) {
                                        Uneven topology(std::move(threads));
                                        maybe_shard_model(declared(), topology, mixed);
                                      }),
                         doctest::Contains("Plan: table 'item.tables.embedding_bags.id' is grid_shard, which is for nodes of as many ranks "
                                           "each; those of this topology differ"),
                         PlanError);
  }

  TEST_CASE("ranks that declare different models, plans or seeds are told the first line that differs") {
    const auto run = [](auto change) {
      try {
        Threads::run(2, [&](Threads topology) {
          EmbeddingBagCollection<Set>::Config config{.name = "t", .num_embeddings = 6, .embedding_dim = 2};
          ShardingOptions options{.plan = {{{"t", table_wise_shards(6, 2, 0)}}}};
          if (topology.rank() == 1) change(config, options);
          EmbeddingBagCollection<Set> tables{config};
          ShardingPolicy(topology, options).apply(std::move(tables));
        });
      } catch (const ConfigError& error) {
        return std::string(error.what());
      }
      return std::string();
    };
    using Config = EmbeddingBagCollection<Set>::Config;
    const auto differs = [&](auto change, std::string_view text) {
      const auto found = run(change);
      CAPTURE(found);
      CHECK(found.find("ShardingPolicy: ranks differ: rank 0 has ") != std::string::npos);
      CHECK(found.find(text) != std::string::npos);
    };
    CHECK(run([](Config&, ShardingOptions&) {}).empty());
    differs([](Config&, ShardingOptions& o) { o.seed = 3; }, "'seed 0' and rank 1 has 'seed 3'");
    differs([](Config&, ShardingOptions& o) { o.plan.tables[0].shards = table_wise_shards(6, 2, 1); }, "on rank 1'");
    differs([](Config& c, ShardingOptions&) { c.optimizer = Sgd{.learning_rate = .5}; }, 
            "and rank 1 has 'embedding_bags.t: sgd with learning_rate 0.5, weight_decay 0'");
    differs([](Config& c, ShardingOptions&) { c.feature_names = {"u"}; }, "features [u] sum");
    differs([](Config& c, ShardingOptions&) { c.pooling = PoolingType::mean; }, "features [] mean");
    differs([](Config& c, ShardingOptions&) { c.initial = Zeros{}; }, "initial values such as [0, 0]");
    differs([](Config& c, ShardingOptions&) { c.initial = Constant{.5}; }, "initial values such as [0.5, 0.5]");
    differs([](Config& c, ShardingOptions&) { c.initial = OwnLaw{"hashed", &hashed}; }, "] by 'hashed'");
    differs([](Config& c, ShardingOptions&) { c.frozen = true; }, "none");
  }

  TEST_CASE("a bad id on one rank ends all ranks with one line that names rank, step, table and id") {
    std::string said;
    try {
      Threads::run(3, [](Threads topology) {
        auto model = maybe_shard_model(declared(), topology, in_rows);
        Optimizer step(model, Sgd{});
        for (int i = 1; i <= 4; ++i) {
          auto mine = batch();
          if (i == 3 && topology.rank() == 1) mine.items = ids({2, 20, 0}, {1, 2, 3});
          model(mine).loss.backward();
          step();
        }
      });
    } catch (const IndexError& error) {
      said = error.what();
    }
    for (const auto* part :
         {"rank 1, step 3", "feature 'id' of table 'item.tables.embedding_bags.id'", "id 20 at position 0 of row 1", "20 rows"})
      CHECK_MESSAGE(said.find(part) != std::string::npos, said);
    CHECK(said.find('\n') == std::string::npos);
  }

  TEST_CASE("ranks that disagree about training are told which does and which does not") {
    const auto differ = [](Threads topology) {
      auto model = maybe_shard_model(declared(), topology, in_rows);
      if (topology.rank() == 1) model.train(false);
      model(batch());
    };
    CHECK_THROWS_WITH_AS(Threads::run(2, differ), doctest::Contains("rank 0 trains and rank 1 does not: predict(), train(false) and "), Error);
  }

  TEST_CASE("a loss or normaliser that is not one number, and features that are not there") {
    struct PerRow {
      at::Tensor operator()(const Output& output, const Batch&) const { return output.logits; }
      at::Tensor normaliser(const Batch& b) const { return at::ones({b.size()}); }
    };
    struct PerRowDivisor {
      at::Tensor operator()(const Output& output, const Batch&) const { return output.logits.sum(); }
      at::Tensor normaliser(const Batch& b) const { return at::ones({b.size()}); }
    };
    const ShardingPolicy<Local> here;
    auto per_row = here.apply(ModelAndLoss<TwoTower, PerRow, Batch>{{tower(), tower()}, {}});
    CHECK_THROWS_WITH_AS(per_row(batch()), "the loss has shape [3]; it must be one number, the sum over the batch", ShapeError);
    auto per_row_divisor = here.apply(ModelAndLoss<TwoTower, PerRowDivisor, Batch>{{tower(), tower()}, {}});
    CHECK_THROWS_WITH_AS(per_row_divisor(batch()), "the loss's normaliser has shape [3]; it must be one number", ShapeError);
    auto model = here.apply(declared());
    const std::vector<std::int64_t> only_first{0};
    CHECK_THROWS_AS(model({batch().queries.permute(only_first), batch().items}), IndexError);
    CHECK(model(batch()).loss.defined());
  }
}

}  // namespace rookery
