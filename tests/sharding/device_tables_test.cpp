// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Models with tables on a device, beside the same on the host.

#include <rookery/rookery.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <rookery/checkpoint/import_state.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/embedding/managed_collision.hpp>
#include <rookery/embedding/position_weighted.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/models/dlrm.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sharding/device_cases.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

using Set = Rules<RowwiseAdagrad, Adam, Sgd, Adagrad, Lamb>;
using Table = EmbeddingBagConfig<Set>;

struct Clicks {
  at::Tensor dense, labels;                                  // [B, 3], [B]
  KeyedJaggedTensor ids, more, history;
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &Clicks::dense, "labels", &Clicks::labels, "ids", &Clicks::ids, "more", &Clicks::more, "history",
                            &Clicks::history);
  }
};
struct Output {
  at::Tensor logits;                                         // [B]
};

Clicks clicks(std::uint64_t seed, at::ScalarType dtype) {
  Draw draw(seed);
  const std::int64_t rows = seed % 4 == 0 ? 3 : 12;
  const auto dense = draw.tensor({rows, 3}, dtype);                                          // [B, 3]
  return {dense, dense.sum(1).gt(0).to(dtype), random_features(draw, {"a", "b", "c"}, {20, 11, 7}, rows),
          random_features(draw, {"a", "d"}, {20, 9}, rows, {.longest_bag = 3}),
          random_features(draw, {"h"}, {13}, rows, {.longest_bag = 3, .is_weighted = true, .weight_dtype = dtype})};
}

/// Pooled tables under several rules, tables with trained weights, a sequence, and rows that ids take from each other.
struct Ranker {
  EmbeddingBagCollection<Set> tables, weighted;
  EmbeddingCollection<Set> history;
  PositionWeighted position;
  Mlp over;
  static constexpr auto members() {
    return rookery::members("tables", &Ranker::tables, "weighted", &Ranker::weighted, "history", &Ranker::history, "position",
                            &Ranker::position, "over", &Ranker::over);
  }
  auto lookups(const Clicks& b) const {
    return rookery::lookups(lookup<&Ranker::tables>(b.ids), lookup<&Ranker::weighted>(position(b.more)),
                            lookup<&Ranker::history>(b.history));
  }
  Output forward(const Clicks& b, const auto& found) const {
    const auto& sequence = get<&Ranker::history>(found)["h"];
    const auto rows = sequence.values().mul(sequence.weights().unsqueeze(1)).sum(0, true);   // [1, 4]
    const auto pooled = get<&Ranker::tables>(found).values(), weighed = get<&Ranker::weighted>(found).values();
    return {over(at::cat({b.dense, pooled, weighed, rows.expand({b.size(), 4})}, 1)).squeeze(1)};
  }
};

Ranker ranker(at::ScalarType dtype, bool vocabulary = false) {
  const auto table = [&](const char* name, std::int64_t rows, std::int64_t dim, RuleChoice<Set> rule, PoolingType pooling) {
    return Table{.name = name, .num_embeddings = rows, .embedding_dim = dim, .pooling = pooling, .data_type = dtype, .optimizer = rule};
  };
  auto first = table("a", 20, 4, RowwiseAdagrad{.learning_rate = .05}, PoolingType::sum);
  if (vocabulary) {
    first.num_embeddings = 6;
    first.managed_collision = ManagedCollision{.eviction = Eviction::lru};
  }
  return {.tables = {first, table("b", 11, 5, Adam{.learning_rate = .01}, PoolingType::mean),
                     table("c", 7, 3, Lamb{.learning_rate = .01}, PoolingType::sum)},
          .weighted = {{table("a", 20, 2, Sgd{.learning_rate = .1}, PoolingType::sum),
                        table("d", 9, 3, Adagrad{.learning_rate = .05}, PoolingType::mean)},
                       {.is_weighted = true}},
          .history = {{{.name = "h", .num_embeddings = 13, .embedding_dim = 4, .data_type = dtype,
                        .optimizer = RowwiseAdagrad{.learning_rate = .05}}},
                      {.is_weighted = true}},
          .position = PositionWeighted({{"a", 4}}, dtype),
          .over = Mlp(3 + 12 + 5 + 4, {6, 1}, {.activation = Activation::tanh}, dtype)};
}

/// Weights of a Ranker of another seed, as a file has them, on the device.
std::vector<NamedTensor> weights_of_another(at::ScalarType dtype, at::Device where) {
  Local topology(where);
  auto model = ShardingPolicy<Local>(topology, {.seed = 8}).apply(ModelAndLoss<Ranker, Bce, Clicks>{ranker(dtype), {}});
  std::vector<NamedTensor> tensors;
  model.for_each_parameter([&](std::string_view name, Parameter& one) { tensors.push_back({std::string(name), one.tensor().detach()}); });
  for (const auto& table : model.tables()) {
    const auto& name = table.description.name;
    tensors.push_back({name + ".weight", table.shards.front().local->storage.weight().clone()});
  }
  return tensors;
}

}  // namespace

TEST_SUITE("sharding/device_tables") {
  TEST_CASE("tables of every kind of lookup and rule train on a device as on the host") {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto batch = [&](std::uint64_t seed) { return clicks(seed, dtype); };
      compare<Bce, Clicks>(dtype, "adam", [&] { return ranker(dtype); }, Adam{.learning_rate = .01}, {}, batch);
      compare<Bce, Clicks>(dtype, "adam", [&] { return ranker(dtype, true); }, Adam{.learning_rate = .01}, {.clip_norm = .5}, batch, 2,
                           /*waits=*/true);
    }
  }

  TEST_CASE("weights that were imported are those of a model on a device, which trains as on the host") {
    for (const auto dtype : {at::kDouble, at::kFloat})
      for (const auto from : {at::Device(at::kCPU), fake_device}) {
        const auto weights = weights_of_another(at::kDouble, from);
        const auto model = [&] {
          auto declared = ranker(dtype);
          CHECK(import_state(declared, weights).names.size() == weights.size());
          return declared;
        };
        Local topology(fake_device);
        auto placed = ShardingPolicy<Local>(topology).apply(ModelAndLoss<Ranker, Bce, Clicks>{model(), {}});
        const auto found = contents(placed, Optimizer(placed, Sgd{}));
        for (const auto& [name, tensor] : weights) {
          INFO(name);
          CHECK(at::equal(found.at(name), seen_on_device(tensor).to(dtype)));
        }
        compare<Bce, Clicks>(dtype, "adam", model, Adam{.learning_rate = .01}, {.clip_norm = .5},
                             [&](std::uint64_t seed) { return clicks(seed, dtype); });
      }
  }

  TEST_CASE("DLRM trains on a device as on the host") {
    const auto model = [](at::ScalarType dtype) {
      const auto table = [&](const char* name, std::int64_t rows, RuleChoice<Set> rule) {
        return Table{.name = name, .num_embeddings = rows, .embedding_dim = 4, .data_type = dtype, .optimizer = rule};
      };
      return Dlrm<Set>({table("a", 20, RowwiseAdagrad{.learning_rate = .05}), table("b", 11, Sgd{.learning_rate = .1}),
                        table("c", 7, Adagrad{.learning_rate = .05})},
                       3, {8, 4}, {8, 1}, dtype);
    };
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto batch = [&](std::uint64_t seed) { return clicks(seed, dtype); };
      compare<Bce, Clicks>(dtype, "adagrad", [&] { return model(dtype); }, Adagrad{.learning_rate = .02}, {.clip_norm = 1},
                           batch);
    }
  }

  TEST_CASE("rows of a table on a device are read and written by id, and its weights and state come to the host") {
    Local topology(fake_device), host;
    const auto placed = [](Local& on) {
      return ShardingPolicy<Local>(on, {.seed = 2}).apply(ModelAndLoss<Ranker, Bce, Clicks>{ranker(at::kDouble), {}});
    };
    auto there = placed(topology), here = placed(host);
    const auto ids = at::tensor({4, 0, 4, 19}, at::kLong);
    const auto values = at::arange(16, at::kDouble).view({4, 4});
    for (auto* model : {&there, &here}) {
      auto table = model->table("tables.embedding_bags.a");
      table.write(ids, values);
      CHECK(at::equal(table.rows(ids), values.index_select(0, at::tensor({2, 1, 2, 3}, at::kLong))));
    }
    CHECK(at::equal(there.table("tables.embedding_bags.a").weight(), here.table("tables.embedding_bags.a").weight()));
    Optimizer one(there, Sgd{}), other(here, Sgd{});
    there(clicks(1, at::kDouble)).loss.backward(), one();
    here(clicks(1, at::kDouble)).loss.backward(), other();
    const auto state = there.table("b").state("exp_avg");
    CHECK(state.is_cpu());
    CHECK(state.abs().max().item<double>() > 0);
    CHECK(difference(state, here.table("b").state("exp_avg")) < 1e-12);
  }
}

}  // namespace rookery
