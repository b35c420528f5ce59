// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/checkpoint/import_state.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <cstdint>
#include <string_view>

#include <rookery/checkpoint/named_tensor.hpp>
#include <rookery/checkpoint/read_tensors.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "checkpoint/python_files.hpp"
#include "support/peak_memory.hpp"
#include "support/tolerances.hpp"
#include "support/test.hpp"

namespace rookery {

using cases::PeakMemory;

namespace {

struct DenseBatch {
  at::Tensor x;                                                                     // [B, 3]
  std::int64_t size() const { return x.size(0); }
};
struct Output {
  at::Tensor values;                                                                // [B, 1]
};
struct Sum {
  static constexpr bool divides = false;
  at::Tensor operator()(const Output& output, const auto&) const { return output.values.sum(); }
};
struct Dense {
  Mlp net{3, {4, 1}};
  static constexpr auto members() { return rookery::members("net", &Dense::net); }
  Output forward(const DenseBatch& batch) { return {net(batch.x)}; }
};

/// A rule that counts the rows that it is shown, in training or to be described.
struct Counting {
  inline static std::int64_t updates = 0;
  static constexpr std::string_view name = "counting";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>&, const StepContext&, const double*) const { ++updates; }
};

struct Bags {
  KeyedJaggedTensor ids;
  std::int64_t size() const { return ids.stride(); }
  static constexpr auto members() { return rookery::members("ids", &Bags::ids); }
};
struct Ranker {
  EmbeddingBagCollection<Rules<Sgd>> tables{{.name = "t1", .num_embeddings = 7, .embedding_dim = 4},
                                            {.name = "t2", .num_embeddings = 5, .embedding_dim = 3, .pooling = PoolingType::mean}};
  Linear over{7, 1};
  static constexpr auto members() { return rookery::members("tables", &Ranker::tables, "over", &Ranker::over); }
  auto lookups(const Bags& batch) const { return rookery::lookups(lookup<&Ranker::tables>(batch.ids)); }
  Output forward(const Bags&, const auto& pooled) { return {over(get<&Ranker::tables>(pooled).values())}; }
};

at::Tensor numbers(const nlohmann::json& rows) {
  std::vector<double> flat;
  for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return at::tensor(flat).view({static_cast<std::int64_t>(rows.size()), -1});
}

Bags bags(const nlohmann::json& facts) {
  std::vector<std::int64_t> ids, lengths;
  for (const char* table : {"t1", "t2"}) {
    ids.insert(ids.end(), facts["ids"][table].begin(), facts["ids"][table].end());
    lengths.insert(lengths.end(), facts["lengths"][table].begin(), facts["lengths"][table].end());
  }
  return {KeyedJaggedTensor::from_lengths({"t1", "t2"}, at::tensor(ids), at::tensor(lengths))};
}

const std::vector<MappedName> dense_names{{"net.0.*", "net.layers.0.*"}, {"net.2.*", "net.layers.1.*"}, {"steps", ""}};
const std::vector<MappedName> ranker_names{{"ebc.*", "tables.*"}};

at::Tensor predict(Dense model, const nlohmann::json& facts) {
  ShardingPolicy<Local> sharding;
  auto placed = sharding.apply(ModelAndLoss<Dense, Sum, DenseBatch>{std::move(model), {}});
  return placed.predict({numbers(facts["x"]).to(at::kFloat)}).values;               // [5, 1]
}
template <class Topology> at::Tensor predict(Ranker model, const nlohmann::json& facts, Topology topology, ShardingKind kind) {
  ShardingPolicy<Topology> sharding{topology, {.constraints = {{"t1", {.kinds = {kind}}}, {"t2", {.kinds = {kind}}}}}};
  auto placed = sharding.apply(ModelAndLoss<Ranker, Sum, Bags>{std::move(model), {}});
  return placed.predict(bags(facts)).values;                                        // [3, 1]
}

/// A file's entries for Ranker, made here.
std::vector<NamedTensor> ranker_tensors() {
  return {{"tables.embedding_bags.t1.weight", at::arange(28, at::kFloat).view({7, 4})},
          {"tables.embedding_bags.t2.weight", at::ones({5, 3})},
          {"over.weight", at::ones({1, 7})},
          {"over.bias", at::zeros({1})}};
}

}  // namespace

TEST_SUITE("checkpoint/import_state") {
  TEST_CASE("a model whose tables are placed is refused before anything is given") {
    Ranker model;
    model.tables.placed();
    CHECK_THROWS_WITH_AS(import_state(model, ranker_tensors()),
                         "import_state: tables take values before the model is placed; placed are 'tables.embedding_bags.t1.weight', "
                         "'tables.embedding_bags.t2.weight'",
                         ConfigError);
    CHECK(!model.over.weight.is_assigned());
    auto dense = ranker_tensors();
    dense.erase(dense.begin(), dense.begin() + 2);
    CHECK(import_state(model, dense, {}, {.allow_missing = true}).names.size() == 2);
  }
  TEST_CASE("a thousand tables are one walk: no rule is tried out for each, and no value is copied") {
    std::vector<EmbeddingBagConfig<Rules<Counting>>> configs;
    std::vector<NamedTensor> tensors;
    for (int t = 0; t < 1000; ++t) {
      configs.push_back({.name = concat("t", t), .num_embeddings = 3, .embedding_dim = 2});
      tensors.push_back({concat("tables.embedding_bags.t", t, ".weight"), at::ones({3, 2})});
    }
    struct Model {
      EmbeddingBagCollection<Rules<Counting>> tables;
      static constexpr auto members() { return rookery::members("tables", &Model::tables); }
    } model{{configs}};
    Counting::updates = 0;
    CHECK(import_state(model, tensors).names.size() == 1000);
    CHECK(Counting::updates == 0);
  }
  TEST_CASE("ranks of one process that import the same table by rows hold it once") {
    constexpr std::int64_t rows = 1 << 20, dim = 16;                                // 64 MiB
    const auto values = at::ones({rows, dim});
    const PeakMemory memory;
    Threads::run(4, [&](Threads topology) {
      EmbeddingBagCollection<Rules<Sgd>> tables{{.name = "t", .num_embeddings = rows, .embedding_dim = dim}};
      tables.assign("t", values);
      const ShardingPolicy<Threads> sharding{topology, {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}}}};
      auto placed = sharding.apply(std::move(tables));
      CHECK(placed.table("t").rows(at::tensor({std::int64_t{0}, rows - 1})).equal(at::ones({2, dim})));
    });
    if (memory.is_known()) CHECK(memory.growth() < rows * dim * 4 * 2);             // the shards, together one table
  }
  TEST_CASE("a plain torch model imports with equal outputs") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    const auto& python = cases::python_files();
    const auto expected = numbers(python.facts["dense"]);                           // [5, 1]
    for (const char* name : {"dense.pt", "dense.safetensors"}) {
      Dense model;
      const auto imported = import_state(model, read_tensors(python.path(name)), dense_names);
      CHECK(imported.names.size() == 4);
      CHECK(cases::difference(predict(std::move(model), python.facts), expected) <= cases::tolerance(at::kFloat));
    }
    Dense model;                                                                    // from a whole run's dictionary
    auto names = dense_names;
    for (auto& one : names) one.file = "model_state_dict." + one.file;
    names.push_back({"optimizer.*", ""});
    import_state(model, read_tensors(python.path("run.pt")), names);
    CHECK(cases::difference(predict(std::move(model), python.facts), expected) <= cases::tolerance(at::kFloat));
  }
  TEST_CASE("TorchRec's EmbeddingBagCollection imports with equal outputs, under every plan") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    const auto& python = cases::python_files();
    const auto expected = numbers(python.facts["ranker"]);                          // [3, 1]
    for (const char* name : {"ranker.pt", "parameters.pt", "f64.pt", "f64.safetensors"}) {
      Ranker model;
      import_state(model, read_tensors(python.path(name)), ranker_names);
      CHECK(cases::difference(predict(std::move(model), python.facts, Local{}, ShardingKind::table_wise), expected) <=
            cases::tolerance(at::kFloat));
    }
    for (const auto kind : {ShardingKind::row_wise, ShardingKind::table_wise})
      Threads::run(2, [&](Threads topology) {
        Ranker model;
        import_state(model, read_tensors(python.path("ranker.pt")), ranker_names);
        CHECK(cases::difference(predict(std::move(model), python.facts, topology, kind), expected) <= cases::tolerance(at::kFloat));
      });
  }
  TEST_CASE("half precision is converted") {
    if (!cases::has_python()) {
      MESSAGE("skipped: no Python from tests/setup");
      return;
    }
    const auto& python = cases::python_files();
    for (const char* name : {"f16.pt", "f16.safetensors", "bf16.pt", "bf16.safetensors"}) {
      Ranker model;
      import_state(model, read_tensors(python.path(name)), ranker_names);
      const auto got = predict(std::move(model), python.facts, Local{}, ShardingKind::table_wise);
      const bool f16 = std::string_view(name).starts_with("f16");
      CHECK(cases::difference(got, numbers(python.facts[f16 ? "f16" : "ranker"])) <= (f16 ? cases::tolerance(at::kFloat) : 2e-2));
    }
  }
  TEST_CASE("names that are alike need no map; one table of a file, under another name") {
    Ranker all, one;
    CHECK(import_state(all, ranker_tensors()).names.size() == 4);
    const std::vector<NamedTensor> file{{"ebc.embedding_bags.item.weight", at::arange(28, at::kFloat).view({7, 4})},
                                        {"other", at::ones({9})}};
    const auto imported = import_state(one, file, {{"ebc.embedding_bags.item.weight", "tables.embedding_bags.t1.weight"}},
                                       {.allow_missing = true, .allow_extra = true});
    REQUIRE(imported.names.size() == 1);
    CHECK(imported.names[0].model == "tables.embedding_bags.t1.weight");
    CHECK(imported.missing == std::vector<std::string>{"tables.embedding_bags.t2.weight", "over.weight", "over.bias"});
    CHECK(imported.extra == std::vector<std::string>{"other"});
    ShardingPolicy<Local> sharding;
    auto placed = sharding.apply(ModelAndLoss<Ranker, Sum, Bags>{std::move(one), {}});
    CHECK(gather_table(placed, "t1").equal(at::arange(28, at::kFloat).view({7, 4})));
  }
  TEST_CASE("the first entry of a map that fits decides, and a star stands for the same text on both sides") {
    Ranker model;
    auto tensors = ranker_tensors();
    for (auto& tensor : tensors) tensor.name = "module." + tensor.name + ".ema";
    tensors[2].name = "module.head.ema";
    const auto imported = import_state(model, tensors, {{"module.head.ema", "over.weight"}, {"module.*.ema", "*"}});
    CHECK(imported.names.size() == 4);
  }
  TEST_CASE("what does not fit is refused with names and shapes, and nothing is given") {
    Ranker model;
    auto lacking = ranker_tensors();
    lacking.pop_back();
    lacking.push_back({"over.offset", at::zeros({1})});
    CHECK_THROWS_WITH_AS(import_state(model, lacking),
                         "import_state: the file lacks 'over.bias' [1]; the model has no place for 'over.offset' [1]; give a map of names, "
                         "or allow it",
                         IndexError);
    CHECK_THROWS_WITH_AS(import_state(model, lacking, {}, {.allow_extra = true}),
                         "import_state: the file lacks 'over.bias' [1]; give a map of names, or allow it", IndexError);
    CHECK_THROWS_WITH_AS(import_state(model, lacking, {{"over.offset", "over.offsets"}}),
                         "import_state: the map gives the file's 'over.offset' to 'over.offsets', which the model does not have; it has "
                         "'tables.embedding_bags.t1.weight', 'tables.embedding_bags.t2.weight', 'over.weight', 'over.bias'",
                         IndexError);
    CHECK_THROWS_WITH_AS(import_state(model, ranker_tensors(), {{"module.*", "*"}}),
                         "import_state: the map names 'module.*', which the file does not have", IndexError);
    CHECK_THROWS_WITH_AS(import_state(model, ranker_tensors(), {{"over.bias", "over.weight"}}),
                         "import_state: 'over.weight' is given twice, by the file's 'over.weight' and 'over.bias'", ConfigError);
    auto wrong = ranker_tensors();
    wrong[0].tensor = at::ones({7, 5});
    wrong[2].tensor = at::ones({7, 1});
    CHECK_THROWS_WITH_AS(import_state(model, wrong, {}, {.allow_missing = true, .allow_extra = true}),
                         "import_state: 'tables.embedding_bags.t1.weight' is [7, 5] in the file and [7, 4] in the model, 'over.weight' is "
                         "[7, 1] in the file and [1, 7] in the model",
                         ShapeError);
    auto integers = ranker_tensors();
    integers[3].tensor = at::zeros({1}, at::kLong);
    CHECK_THROWS_WITH_AS(import_state(model, integers), "import_state: weights are floating point, not 'over.bias' of Long", ConfigError);
    CHECK(!model.over.weight.is_assigned());
    std::vector<NamedTensor> many;
    for (int i = 0; i < 12; ++i) many.push_back({concat("x", i), at::ones({})});
    CHECK_THROWS_AS(import_state(model, many), IndexError);
    try {
      import_state(model, many, {}, {.allow_missing = true});
    } catch (const IndexError& error) {
      CHECK(std::string(error.what()).find("'x9' [] and 2 more;") != std::string::npos);
    }
  }
}

}  // namespace rookery
