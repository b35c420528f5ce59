// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/embedding/embedding_bag_collection.hpp>

#include <rookery/embedding/config.hpp>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/peak_memory.hpp"
#include "support/random_batches.hpp"
#include "support/tolerances.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// Rows of equal columns.
at::Tensor rows_of(const std::vector<double>& values, std::int64_t dim = 4, at::ScalarType dtype = at::kFloat) {
  return at::tensor(values, dtype).unsqueeze(1).expand({static_cast<std::int64_t>(values.size()), dim});
}

/// Tables t1, t2 and t3 of the acceptance cases, with a feature each.
Collection three_tables(PoolingType pooling = PoolingType::sum, CollectionOptions options = {},
                        std::vector<std::string> features = {"f1", "f2", "f3"}) {
  Collection tables({{.name = "t1", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {features[0]}, .pooling = pooling},
                     {.name = "t2", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {features[1]}, .pooling = pooling},
                     {.name = "t3", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {features[2]}, .pooling = pooling}},
                    options);
  tables.assign("t1", rows_of({1, 2}));
  tables.assign("t2", rows_of({4, 8}));
  tables.assign("t3", rows_of({16, 32}));
  return tables;
}

/// The pooled values on Local and, row by row split over the ranks, on two threads: equal, or the test fails.
KeyedTensor look_up(const Collection& declared, const KeyedJaggedTensor& features) {
  auto here = ShardingPolicy<Local>{}.apply(Collection(declared));
  auto pooled = here(features);
  std::array<at::Tensor, 2> parts;
  Threads::run(2, [&](Threads topology) {
    Constraints constraints;
    for (const auto& config : declared.configs()) constraints[config.name] = {.kinds = {ShardingKind::row_wise}};
    auto there = maybe_shard_model(Collection(declared), topology, {.constraints = constraints});
    const auto half = features.stride() / 2;
    parts[static_cast<std::size_t>(topology.rank())] =
        there(topology.rank() == 0 ? features.slice(0, half) : features.slice(half, features.stride())).values().detach();
  });
  CHECK(at::equal(at::cat({parts[0], parts[1]}), pooled.values()));
  return pooled;
}

const std::vector<std::vector<std::int64_t>> a22_bags{{0, 1}, {}, {0}, {0}, {1}, {0, 1}, {}, {}, {0}};

/// What a bad id says.
std::string message(const Collection& tables, const KeyedJaggedTensor& features) {
  auto placed = ShardingPolicy<Local>{}.apply(Collection(tables));
  try {
    placed(features);
  } catch (const IndexError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

constexpr auto largest = std::numeric_limits<std::int64_t>::max(), smallest = std::numeric_limits<std::int64_t>::min();

}  // namespace

TEST_SUITE("embedding/embedding_bag_collection") {
  TEST_CASE("A22 forward: sums by feature") {
    const auto pooled = look_up(three_tables(), features_of({"f1", "f2", "f3"}, a22_bags));
    CHECK(pooled.keys() == std::vector<std::string>{"f1", "f2", "f3"});
    CHECK(pooled.length_per_key() == std::vector<std::int64_t>{4, 4, 4});
    CHECK(at::equal(pooled["f1"], rows_of({3, 0, 1})));
    CHECK(at::equal(pooled["f2"], rows_of({4, 8, 12})));
    CHECK(at::equal(pooled["f3"], rows_of({0, 0, 16})));
  }
  TEST_CASE("A22 the order of the batch's features does not matter, and more of them do not either") {
    const auto features = features_of({"f3", "other", "f2", "f1"}, {{}, {}, {0}, {99}, {-1}, {}, {0}, {1}, {0, 1}, {0, 1}, {}, {0}});
    CHECK(
        at::equal(look_up(three_tables(), features).values(), look_up(three_tables(), features_of({"f1", "f2", "f3"}, a22_bags)).values()));
  }
  TEST_CASE("A23 a feature that tables share appears as feature@table") {
    const auto pooled = look_up(three_tables(PoolingType::sum, {}, {"shared_f1", "shared_f1", "f3"}),
                                features_of({"shared_f1", "f3"}, {{}, {0}, {0, 1}, {}, {}, {0}}));
    CHECK(pooled.keys() == std::vector<std::string>{"shared_f1@t1", "shared_f1@t2", "f3"});
    CHECK(at::equal(pooled["shared_f1@t1"], rows_of({0, 1, 3})));
    CHECK(at::equal(pooled["shared_f1@t2"], rows_of({0, 4, 12})));
    CHECK(at::equal(pooled["f3"], rows_of({0, 0, 16})));
    CHECK_THROWS_AS(pooled["shared_f1"], IndexError);
  }
  TEST_CASE("A24 weighted sums") {
    Collection tables({{.name = "t1", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {"f1"}},
                       {.name = "t2", .num_embeddings = 2, .embedding_dim = 4, .feature_names = {"f2"}}},
                      {.is_weighted = true});
    tables.assign("t1", rows_of({1, 2}));
    tables.assign("t2", rows_of({4, 8}));
    const auto pooled =
        look_up(tables, features_of({"f1", "f2"}, {{0, 1}, {}, {0}, {0}, {1}, {0, 1}}, {{1, 2}, {}, {3}, {5}, {7}, {11, 13}}));
    CHECK(at::equal(pooled["f1"], rows_of({5, 0, 3})));
    CHECK(at::equal(pooled["f2"], rows_of({20, 56, 148})));
  }
  TEST_CASE("A25 means, 1.5 to the last bit") {
    const auto pooled = look_up(three_tables(PoolingType::mean), features_of({"f1", "f2", "f3"}, a22_bags));
    CHECK(at::equal(pooled["f1"], rows_of({1.5, 0, 1})));
    CHECK(at::equal(pooled["f2"], rows_of({4, 8, 6})));
    CHECK(at::equal(pooled["f3"], rows_of({0, 0, 16})));
  }
  TEST_CASE("a weighted mean divides by the sum of weights; a zero sum gives zeros") {
    const auto tables = three_tables(PoolingType::mean, {.is_weighted = true});
    const auto pooled = look_up(tables, features_of({"f1", "f2", "f3"}, a22_bags, {{1, 3}, {}, {.5}, {0}, {2}, {1, -1}, {}, {}, {-2}}));
    CHECK(at::equal(pooled["f1"], rows_of({1.75, 0, 1})));
    CHECK(at::equal(pooled["f2"], rows_of({0, 8, 0})));
    CHECK(at::equal(pooled["f3"], rows_of({0, 0, 16})));
  }
  TEST_CASE("a table without feature names has one feature of its own name; widths may differ") {
    Collection tables({{.name = "a", .num_embeddings = 3, .embedding_dim = 1},
                       {.name = "b", .num_embeddings = 3, .embedding_dim = 5, .feature_names = {"x", "y"}}});
    CHECK(tables.width() == 11);
    CHECK(tables.columns()->keys == std::vector<std::string>{"a", "x", "y"});
    CHECK(tables.columns()->length_per_key == std::vector<std::int64_t>{1, 5, 5});
    CHECK(tables.features()[2].feature == "y");
    CHECK(tables.features()[2].table == 1);
    CHECK(tables.features()[2].column == 6);
    CHECK(look_up(tables, features_of({"a", "x", "y"}, {{0, 1}, {2}, {2, 2}, {1}, {}, {0}})).values().sizes() == at::IntArrayRef({2, 11}));
  }
  TEST_CASE("a declaration is described without memory, with rule and state") {
    const Collection tables(
        {{.name = "s", .num_embeddings = 10, .embedding_dim = 6, .optimizer = Sgd{}},
         {.name = "r", .num_embeddings = 10, .embedding_dim = 6, .pooling = PoolingType::mean, .optimizer = RowwiseAdagrad{}},
         {.name = "a", .num_embeddings = 10, .embedding_dim = 6, .optimizer = Adam{}},
         {.name = "f", .num_embeddings = 10, .embedding_dim = 6, .optimizer = Adam{}, .frozen = true}});
    const auto described = tables.describe("user");
    REQUIRE(described.size() == 4);
    CHECK(described[0].name == "user.embedding_bags.s");
    CHECK(described[0].table == "s");
    CHECK(tables.describe("")[0].name == "embedding_bags.s");
    CHECK(described[0].rule == "sgd");
    CHECK(described[0].bytes() == 10 * 6 * 4);
    CHECK(described[1].rule == "rowwise_adagrad");
    CHECK(described[1].row_sums == 1);
    CHECK(described[1].bytes() == 10 * 7 * 4);
    CHECK((described[1].pooling == PoolingType::mean));
    CHECK(described[2].bytes() == 10 * 18 * 4);
    CHECK(described[3].rule == "none");
    CHECK(described[3].bytes() == 10 * 6 * 4);
    CHECK(tables.shards().empty());
  }
  TEST_CASE("one table is declared in two or three braces, with or without options and designators") {
    const auto is_one = [](const auto& tables, bool weighted = false) {
      REQUIRE(tables.configs().size() == 1);
      CHECK(tables.configs()[0].name == "user_id");
      CHECK(tables.configs()[0].num_embeddings == 1'000'000);
      CHECK(tables.configs()[0].embedding_dim == 64);
      CHECK(tables.is_weighted() == weighted);
    };
    const std::string name = "user_id";
    is_one(Collection{{.name = "user_id", .num_embeddings = 1'000'000, .embedding_dim = 64}});
    is_one(Collection{{{.name = "user_id", .num_embeddings = 1'000'000, .embedding_dim = 64}}});
    is_one(Collection{{{.name = name, .num_embeddings = 1'000'000, .embedding_dim = 64}}});
    is_one(Collection{{{.name = "user_id", .num_embeddings = 1'000'000, .embedding_dim = 64}}, {.is_weighted = true}}, true);
    is_one(Collection{{{"user_id", 1'000'000, 64}}});
    struct Owner {
      Collection user;
    };
    is_one(Owner{.user = {{.name = "user_id", .num_embeddings = 1'000'000, .embedding_dim = 64}}}.user);
    is_one(Owner{.user = {{{.name = "user_id", .num_embeddings = 1'000'000, .embedding_dim = 64}}}}.user);
    const Collection two{{{.name = "user_id", .num_embeddings = 10, .embedding_dim = 4},
                          {.name = name + "2", .num_embeddings = 3, .embedding_dim = 2}}};
    CHECK(two.configs().size() == 2);
    CHECK(two.configs()[1].name == "user_id2");
  }
  TEST_CASE("the default rule is the first of the set") {
    EmbeddingBagConfig<Rules<Adagrad, Sgd>> config{.name = "t", .num_embeddings = 1, .embedding_dim = 1};
    CHECK(config.optimizer.name() == "adagrad");
  }
  TEST_CASE("tables that cannot be are refused when they are declared") {
    CHECK_THROWS_WITH_AS(Collection({{.num_embeddings = 2, .embedding_dim = 2}}), "EmbeddingBagCollection: table number 0 has no name",
                         ConfigError);
    CHECK_THROWS_WITH_AS(Collection({{.name = "t", .num_embeddings = 0, .embedding_dim = 2}}),
                         "EmbeddingBagCollection: table 't' is [0, 2]; rows and columns must be positive", ConfigError);
    CHECK_THROWS_AS(Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = -1}}), ConfigError);
    CHECK_THROWS_WITH_AS(Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = 2, .data_type = at::kInt}}),
                         "EmbeddingBagCollection: table 't' has dtype Int; use float32, float64, float16 or bfloat16", ConfigError);
    CHECK_THROWS_WITH_AS(
        Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = 2},
                    {.name = "u", .num_embeddings = 2, .embedding_dim = 2, .data_type = at::kDouble}}),
        "EmbeddingBagCollection: table 'u' is Double and table 't' is Float; float64 tables have a collection of their own", ConfigError);
    CHECK_THROWS_WITH_AS(
        Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = 2}, {.name = "t", .num_embeddings = 2, .embedding_dim = 2}}),
        "EmbeddingBagCollection: table name 't' is given twice", ConfigError);
    CHECK_THROWS_WITH_AS(Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = 2, .feature_names = {"f", "g", "f"}}}),
                         "EmbeddingBagCollection: table 't' is given feature 'f' twice", ConfigError);
    CHECK_THROWS_WITH_AS(
        Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = 2, .initial = Normal{std::numeric_limits<double>::infinity()}}}),
        "EmbeddingBagCollection: table 't': Normal has stddev inf; it must be finite and not negative", ConfigError);
    CHECK_THROWS_WITH_AS(Collection({{.name = "t", .num_embeddings = 2, .embedding_dim = 2, .optimizer = Adam{.eps = 0}}}),
                         "EmbeddingBagCollection: table 't': adam has eps 0; it must be finite and positive in float32, 2^-126 or more",
                         ConfigError);
  }
  TEST_CASE("B10 tables whose bytes int64 cannot hold are refused when they are declared, with their numbers") {
    constexpr auto huge = std::int64_t{1} << 60;
    CHECK_THROWS_WITH_AS(Collection({{.name = "t", .num_embeddings = huge, .embedding_dim = 15}}),
                         "EmbeddingBagCollection: table 't' is [1152921504606846976, 15] of Float; with its state and the tables before "
                         "it, it needs more than 2^63 bytes",
                         ConfigError);
    CHECK_THROWS_AS(Collection({{.name = "t", .num_embeddings = huge, .embedding_dim = 16}}), ConfigError);
    CHECK_THROWS_AS(Collection({{.name = "t", .num_embeddings = huge / 2, .embedding_dim = 2, .optimizer = Adam{}}}), ConfigError);
    CHECK_THROWS_AS(
        Collection({{.name = "t", .num_embeddings = huge, .embedding_dim = 1}, {.name = "u", .num_embeddings = huge, .embedding_dim = 1}}),
        ConfigError);
    CHECK_NOTHROW(Collection({{.name = "t", .num_embeddings = huge / 4, .embedding_dim = 2, .frozen = true}}));
  }
  TEST_CASE("assigned values are checked, and win over the initial law") {
    auto tables = three_tables();
    CHECK_THROWS_WITH_AS(tables.assign("t4", rows_of({1, 2})), "EmbeddingBagCollection: no table 't4'; tables are [t1, t2, t3]",
                         IndexError);
    CHECK_THROWS_WITH_AS(tables.assign("t1", rows_of({1, 2, 3})),
                         "EmbeddingBagCollection: assigned values of shape [3, 4] to table 't1' of [2, 4]", ShapeError);
    CHECK_THROWS_AS(tables.assign("t1", at::ones({8})), ShapeError);
    auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
    CHECK(at::equal(placed.model().shards()[2].storage.weight(), rows_of({16, 32})));
    CHECK_THROWS_WITH_AS(placed.model().assign("t1", rows_of({1, 2})), "EmbeddingBagCollection: assign to table 't1' after placement",
                         ConfigError);
    CHECK_THROWS_WITH_AS(ShardingPolicy<Local>{}.apply(Collection(placed.model())), "EmbeddingBagCollection: table 't1' is placed already",
                         ConfigError);
  }
  TEST_CASE("assigned values may not change before placement, and later changes of the tensor do not show") {
    auto values = at::ones({2, 4});
    auto tables = three_tables();
    tables.assign("t1", values);
    const auto placed = ShardingPolicy<Local>{}.apply(Collection(tables));
    values.zero_();
    CHECK(at::equal(placed.model().shards()[0].storage.weight(), rows_of({1, 1})));
    CHECK_THROWS_WITH_AS(ShardingPolicy<Local>{}.apply(Collection(tables)),
                         "EmbeddingBagCollection: the values assigned to table 't1' were changed before it was placed", ConfigError);
    tables.assign("t1", values);
    const auto again = ShardingPolicy<Local>{}.apply(std::move(tables));
    CHECK(at::equal(again.model().shards()[0].storage.weight(), rows_of({0, 0})));
  }
  TEST_CASE("initial values follow the law of each table and are the same whatever the plan") {
    const Collection tables({{.name = "u", .num_embeddings = 25, .embedding_dim = 3, .optimizer = RowwiseAdagrad{}},
                             {.name = "n", .num_embeddings = 25, .embedding_dim = 4, .initial = Normal{.1}, .optimizer = Adam{}},
                             {.name = "z", .num_embeddings = 25, .embedding_dim = 5, .initial = Zeros{}}});
    const auto local = train_tables(tables, {}).tables[0];
    CHECK(local[0].weight.abs().max().item<double>() <= .2);
    CHECK(local[0].weight.abs().max().item<double>() > .15);
    CHECK(local[1].weight.abs().max().item<double>() > .2);
    CHECK(local[2].weight.abs().max().item<double>() == 0);
    for (const int ranks : {1, 2, 3, 4}) {
      const auto there = train_tables(tables, {}, ranks).tables[0];
      for (std::size_t t = 0; t < local.size(); ++t) CHECK(at::equal(there[t].weight, local[t].weight));
    }
  }
  TEST_CASE("initial values do not depend on the number of threads") {
    const Collection tables({{.name = "t", .num_embeddings = 5000, .embedding_dim = 9, .initial = Normal{1}}});
    const int before = at::get_num_threads();
    std::vector<at::Tensor> found;
    for (const int threads : {1, 2, 5}) {
      at::set_num_threads(threads);
      found.push_back(train_tables(tables, {}).tables[0][0].weight);
    }
    at::set_num_threads(before);
    for (const auto& weight : found) CHECK(at::equal(weight, found[0]));
  }
  TEST_CASE("torch's default generator is never drawn from") {
    at::manual_seed(1);
    const auto expected = at::rand({4});
    at::manual_seed(1);
    const PooledBatch batch{features_of({"f1", "f2", "f3"}, a22_bags), at::ones({3, 12})};
    train_tables(Collection({{.name = "t", .num_embeddings = 50, .embedding_dim = 12, .feature_names = {"f1"}, .initial = Normal{1}}}),
                 {batch, batch});
    CHECK(at::equal(at::rand({4}), expected));
  }
  TEST_CASE("B1 an id outside its table names feature, table, position, id and row count; never another row") {
    const auto one = [](std::int64_t id) { return features_of({"f1", "f2", "f3"}, {{0, 1}, {}, {0}, {0}, {1}, {0, id}, {}, {}, {0}}); };
    const std::vector<std::int64_t> bad{
        -1, 2, 3, smallest, smallest + 1, largest, std::int64_t{1} << 32, (std::int64_t{1} << 32) + 1, -(std::int64_t{1} << 32)};
    for (const auto id : bad)
      CHECK(message(three_tables(), one(id)) ==
            concat("feature 'f2' of table 'embedding_bags.t2': id ", id, " at position 1 of row 2; the table has 2 rows"));
    CHECK(message(three_tables(), one(1)) == "nothing was thrown");
    CHECK(message(three_tables(), features_of({"f1", "f2", "f3"}, {{0, 1}, {}, {0}, {7}, {1}, {0}, {}, {}, {0}})) ==
          "feature 'f2' of table 'embedding_bags.t2': id 7 at position 0 of row 0; the table has 2 rows");
    CHECK(message(three_tables(), features_of({"f1", "f2", "f3"}, {{}, {}, {0, 0, 0, -7}, {}, {1}, {0}, {}, {}, {0}})) ==
          "feature 'f1' of table 'embedding_bags.t1': id -7 at position 3 of row 2; the table has 2 rows");
    const auto narrow = KeyedJaggedTensor::from_lengths({"f1", "f2", "f3"}, at::full({1}, -2, at::kInt), at::tensor({0, 1, 0}, at::kLong));
    CHECK(message(three_tables(), narrow) ==
          "feature 'f2' of table 'embedding_bags.t2': id -2 at position 0 of row 0; the table has 2 rows");
  }
  TEST_CASE("B1 10,000 batches with one bad id somewhere are refused with that id, table and place") {
    const std::vector<std::int64_t> rows{1, 5, 1000};
    const Collection declared({{.name = "a", .num_embeddings = rows[0], .embedding_dim = 1},
                               {.name = "b", .num_embeddings = rows[1], .embedding_dim = 1},
                               {.name = "c", .num_embeddings = rows[2], .embedding_dim = 1}});
    auto placed = ShardingPolicy<Local>{}.apply(Collection(declared));
    placed.train(false);
    int refused = 0, right = 0, tried = 0;
    for (std::uint64_t seed = 0; tried < 10'000; ++seed) {
      Draw draw(seed);
      const auto features = random_features(draw, {"a", "b", "c"}, rows, draw.integer(1, 3));
      if (features.values().numel() == 0) continue;
      ++tried;
      const auto place = draw.integer(0, features.values().numel() - 1);
      std::size_t f = 0;
      while (features.offset_per_key()[f + 1] <= place) ++f;
      const auto bad = draw.chance(.3) ? rows[f] : draw.chance(.3) ? draw.integer(smallest, -1) : draw.integer(rows[f], largest);
      features.values().mutable_data_ptr<std::int64_t>()[place] = bad;
      try {
        placed(features);
      } catch (const IndexError& error) {
        ++refused;
        const std::string text = error.what();
        right += text.starts_with(concat("feature '", features.keys()[f], "' of table 'embedding_bags.", features.keys()[f], "': id ", bad,
                                         " at position ")) &&
                 text.ends_with(concat("; the table has ", rows[f], " rows"));
      }
    }
    CHECK(refused == 10'000);
    CHECK(right == 10'000);
  }
  TEST_CASE("B4 weights that are not finite stop the step, or skip it, with nothing changed; negative ones and zeros are weights") {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinite = std::numeric_limits<double>::infinity();
    const std::vector<std::string> keys{"f1", "f2", "f3"};
    const auto batch_of = [&](double weight) {
      return PooledBatch{features_of(keys, {{0, 1}, {}, {1}, {0}, {}, {}}, {{2, weight}, {}, {-1}, {0}, {}, {}}), at::ones({2, 12})};
    };
    CHECK_THROWS_WITH_AS(features_of(keys, {{0, 1}, {1}, {}}, {{1, 1}, {}, {}}), "KeyedJaggedTensor: weights of shape [2] for 3 values",
                         ShapeError);
    const auto run = [&](auto& topology) {
      for (const auto policy : {NonFinite::error, NonFinite::skip}) {
        const auto tables = three_tables(PoolingType::sum, {.is_weighted = true});
        auto model = maybe_shard_model(ModelAndLoss<OneCollection, SumOfOutputs, PooledBatch>{{tables}, {}}, topology,
                                       {.constraints = {{"t1", {.kinds = {ShardingKind::row_wise}}}}});
        Optimizer step(model, Sgd{}, {.non_finite = policy});
        const auto pass = [&](double weight) {
          const auto last = topology.rank() + 1 == topology.world_size();
          model(last ? batch_of(weight) : slice(batch_of(1), 0, 0)).loss.backward();
        };
        for (const double weight : {nan, infinite, -infinite}) {
          pass(weight);
          if (policy == NonFinite::error) CHECK_THROWS_AS(step(), NonFiniteError);
          else CHECK(!step());
          CHECK(at::equal(gather_table(model, "t1"), rows_of({1, 2})));
          CHECK(at::equal(gather_table(model, "t2"), rows_of({4, 8})));
        }
        CHECK(step.skipped() == (policy == NonFinite::skip ? 3 : 0));
        pass(-3);
        CHECK(step());                                         // gradients 2 and -3 of t1, -1 and 0 of t2, at rate .01
        CHECK(difference(gather_table(model, "t1"), rows_of({.98, 2.03})) <= tolerance(at::kFloat));
        CHECK(difference(gather_table(model, "t2"), rows_of({4, 8.01})) <= tolerance(at::kFloat));
      }
    };
    Local local;
    run(local);
    Threads::run(2, [&](Threads topology) { run(topology); });
  }
  TEST_CASE("B5 features are found by name, whatever their order; one that is missing, unknown or given twice is refused or left alone") {
    auto placed = ShardingPolicy<Local>{}.apply(three_tables());
    const auto expected = placed(features_of({"f1", "f2", "f3"}, a22_bags)).values().detach();
    const auto batch = features_of({"f1", "f2", "f3"}, a22_bags);
    for (const auto& order : std::vector<std::vector<std::int64_t>>{{0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}, {2, 2, 0, 1, 0}})
      CHECK(at::equal(placed(batch.permute(order)).values().detach(), expected));
    auto more = a22_bags;
    more.insert(more.end(), {{99}, {-1}, {}});                 // a feature that no table has
    CHECK(at::equal(placed(features_of({"f1", "f2", "f3", "f4"}, more)).values().detach(), expected));
    CHECK_THROWS_WITH_AS(features_of({"f1", "f2", "f1"}, a22_bags), "KeyedJaggedTensor: key 'f1' is given twice", ShapeError);
    CHECK_THROWS_WITH_AS(placed(features_of({"f1", "f3"}, {{0}, {0}})),
                         "feature 'f2' of table 'embedding_bags.t2': the batch has no such key; keys are [f1, f3]", IndexError);
    CHECK_THROWS_AS(placed(KeyedJaggedTensor::empty()), IndexError);
  }
  TEST_CASE("B5 weights that are missing or too many are refused") {
    auto placed = ShardingPolicy<Local>{}.apply(three_tables());
    CHECK_THROWS_AS(placed(features_of({"f1", "f2", "f3"}, {{0}, {0}, {0}}, {{1}, {1}, {1}})), ShapeError);
    auto weighted = ShardingPolicy<Local>{}.apply(three_tables(PoolingType::sum, {.is_weighted = true}));
    CHECK_THROWS_AS(weighted(features_of({"f1", "f2", "f3"}, {{0}, {0}, {0}})), ShapeError);
  }
  TEST_CASE("B3 no rows, an empty feature and an all-empty batch give zeros of the right shape, and train") {
    const auto tables = three_tables(PoolingType::mean);
    CHECK(look_up(tables, features_of({"f1", "f2", "f3"}, {})).values().sizes() == at::IntArrayRef({0, 12}));
    CHECK(look_up(tables, features_of({"f1", "f2", "f3"}, {{}, {}, {}, {}, {}, {}})).values().abs().max().item<double>() == 0);
    const auto one_empty = look_up(tables, features_of({"f1", "f2", "f3"}, {{0}, {1}, {}, {}, {1}, {1, 1}}));
    CHECK(at::equal(one_empty["f2"], rows_of({0, 0})));
    CHECK(at::equal(one_empty["f3"], rows_of({32, 32})));
    const auto width = tables.width();
    const std::vector<PooledBatch> batches{{features_of({"f1", "f2", "f3"}, {}), at::ones({0, width})},
                                           {features_of({"f1", "f2", "f3"}, {{}, {}, {}, {}, {}, {}}), at::ones({2, width})},
                                           {features_of({"f1", "f2", "f3"}, {{0}, {1}, {}, {}, {1}, {1, 1}}), at::ones({2, width})}};
    for (const int ranks : {0, 1, 2, 3, 4}) {
      const auto trained = train_tables(tables, batches, ranks);
      CHECK(at::equal(trained.tables[2][0].weight, rows_of({1, 2})));
      CHECK(at::equal(trained.tables[3][1].weight, rows_of({4, 8})));
      CHECK(trained.tables[3][2].weight.sub(rows_of({16, 31.98})).abs().max().item<double>() < 1e-5);  // 1 + .5 + .5, rate .01
      CHECK(trained.gradient_norms[1] == 0);
    }
  }
  TEST_CASE("B6 ids of int32 and strided ids and weights give what int64 ones give; other dtypes are refused") {
    auto placed = ShardingPolicy<Local>{}.apply(three_tables(PoolingType::sum, {.is_weighted = true}));
    const auto lengths = at::tensor({2, 0, 1, 1}, at::kLong), ids = at::tensor({0, 1, 1, 0}, at::kLong);
    const auto weights = at::tensor({1., 2., 3., 4.});
    const auto of = [&](const at::Tensor& values, const at::Tensor& factors) {
      const auto all = at::cat({values, values, values});
      return KeyedJaggedTensor::from_lengths({"f1", "f2", "f3"}, all, at::cat({lengths, lengths, lengths}),
                                             at::cat({factors, factors, factors}));
    };
    const auto expected = placed(of(ids, weights)).values().detach();
    CHECK(expected[0][0].item<float>() == 5);
    CHECK(at::equal(placed(of(ids.to(at::kInt), weights.to(at::kFloat))).values().detach(), expected));
    const auto spread = [](const at::Tensor& values) {           // every other element of a larger tensor
      return at::cat({values.unsqueeze(1), values.unsqueeze(1).add(7)}, 1).select(1, 0);
    };
    const auto strided =
        KeyedJaggedTensor::from_lengths({"f1", "f2", "f3"}, spread(at::cat({ids, ids, ids})), at::cat({lengths, lengths, lengths}),
                                        spread(at::cat({weights, weights, weights})));
    CHECK(!strided.values().is_contiguous());
    CHECK(at::equal(placed(strided).values().detach(), expected));
    for (const auto dtype : {at::kFloat, at::kBool, at::kByte}) CHECK_THROWS_AS(of(ids.to(dtype), weights), ShapeError);
    CHECK_THROWS_AS(of(ids.to(at::kFloat).set_requires_grad(true), weights), ShapeError);    // integers cannot require grad at all
    CHECK_THROWS_AS(of(ids, weights.to(at::kLong)), ShapeError);
    CHECK_THROWS_WITH_AS(of(ids, weights.to(at::kMeta)), "KeyedJaggedTensor: weights on meta and values on cpu", ShapeError);
  }
  TEST_CASE("B7 a bag of a million ids, and a batch of one id only: the right rows, in memory of some words an id") {
    constexpr std::int64_t many = 1'000'000;
    const auto spread = [](std::int64_t n, std::int64_t rows) {  // every row equally often
      return at::arange(n, at::kLong).remainder(rows);
    };
    for (const auto& ids : {at::full({many + 1}, 3, at::kLong), spread(many + 1, 5)})
      for (const bool one_bag : {true, false}) {
        Collection tables({{.name = "t", .num_embeddings = 5, .embedding_dim = 2, .optimizer = Sgd{.learning_rate = 1e-5}}});
        tables.assign("t", rows_of({.1, .2, .3, .4, .5}, 2));  // that float32 only rounds
        auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
        Optimizer step{placed, Sgd{}};
        const auto lengths = one_bag ? at::tensor(std::vector<std::int64_t>{0, many, 1}, at::kLong) : at::ones({many + 1}, at::kLong);
        const auto batch = KeyedJaggedTensor::from_lengths({"t"}, ids, lengths);
        const PeakMemory memory;
        const auto found = placed(batch).values();
        const auto each = ids.to(at::kDouble).add(1).mul(.1);  // [many + 1], what the reference looks up
        if (one_bag) {
          CHECK(found[0][1].item<double>() == 0);
          CHECK(found[1][0].item<double>() == doctest::Approx(each.narrow(0, 0, many).sum().item<double>()).epsilon(1e-5));
          CHECK(found[2][1].item<double>() == doctest::Approx(each[many].item<double>()));
        } else {
          CHECK(difference(found.select(1, 1), each) <= tolerance(at::kFloat));
        }
        found.mul(.1).sum().backward();
        step();
        const auto bytes_per_id = memory.growth() / many;
        MESSAGE("bytes an id: ", bytes_per_id);
        if (memory.is_known()) CHECK(bytes_per_id < 100);
        const auto weight = gather_table(placed, "t");
        for (std::int64_t row = 0; row < 5; ++row) {
          const auto hits = ids.eq(row).sum().item<double>();
          CHECK(weight[row][0].item<double>() == doctest::Approx(.1 * static_cast<double>(row + 1) - 1e-6 * hits).epsilon(1e-5));
        }
      }
  }
  TEST_CASE("a frozen table is looked up and never updated, and keeps no state") {
    Collection tables({{.name = "t", .num_embeddings = 4, .embedding_dim = 3, .optimizer = Adam{}, .frozen = true},
                       {.name = "u", .num_embeddings = 4, .embedding_dim = 3}});
    const std::vector<PooledBatch> batches(3, PooledBatch{features_of({"t", "u"}, {{0, 1}, {2}, {3}, {3}}), at::ones({2, 6})});
    for (const int ranks : {0, 2}) {
      const auto trained = train_tables(tables, batches, ranks);
      CHECK(at::equal(trained.tables[3][0].weight, trained.tables[0][0].weight));
      CHECK(trained.tables[3][0].state.empty());
      CHECK(!at::equal(trained.tables[3][1].weight, trained.tables[0][1].weight));
    }
  }
}

}  // namespace rookery
