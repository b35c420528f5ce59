// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Tables on a device: one process there, and ranks with one each, equal one process on the host, for random models, plans and rules.
#include <rookery/sharding/device_values.hpp>

#include <rookery/sharding/device_gradients.hpp>
#include <rookery/sharding/device_sums.hpp>

#include <ATen/ops/full.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/embedding/managed_collision.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/rules/row_counted.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "embedding/one_collection.hpp"
#include "sharding/one_table.hpp"
#include "support/equivalence.hpp"
#include "support/fake_ranks.hpp"
#include "support/host_rule.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

using TableRules = Rules<Sgd, Adagrad, RowwiseAdagrad, RowCounted<Adam>, HostRule>;
using Tables = EmbeddingBagCollection<TableRules>;
using Model = OneCollectionOf<TableRules>;

struct Rows {
  at::Tensor dense, labels;                                  // [B, 3], [B]
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() { return rookery::members("dense", &Rows::dense, "labels", &Rows::labels); }
};
struct Logits {
  at::Tensor logits;                                         // [B]
};
struct Line {
  Linear over{3, 1};
  static constexpr auto members() { return rookery::members("over", &Line::over); }
  Logits forward(const Rows& batch) const { return {over(batch.dense).squeeze(1)}; }
};
/// Bce over the logarithm of the sum of labels, which is not finite where all are 0.
struct LogBce : Bce {
  bool on_host = false;
  at::Tensor normaliser(const Rows& batch) const {           // []
    const auto log = batch.labels.sum().log();
    return on_host ? log.cpu() : log;
  }
};

/// Runs `fn(topology)` on so many ranks with a device each. All must end in order.
template <class Fn> void on_devices(int ranks, Fn&& fn, int local_world_size = 1) {
  const auto thrown = on_fake_devices(ranks, [&](auto& topology) {
    fn(topology);
    topology.leave();
  }, {.local_world_size = local_world_size}, with_fake_device());
  for (const auto& one : thrown) REQUIRE(one == "");
}

/// Tables and their state after steps on a topology, gathered on the host; and how often the host waited for the device.
struct Found {
  Tensors tensors;
  std::vector<std::string> waits;
};
template <class Topology>
Found trained(Topology& topology, const Tables& tables, const std::vector<PooledBatch>& batches, const ShardingOptions& options = {}) {
  auto model = ShardingPolicy<Topology>(topology, options).apply(ModelAndLoss<Model, SumOfOutputs, PooledBatch>{{tables}, {}});
  Optimizer step(model, Sgd{});
  Found found;
  for (const auto& batch : batches) {
    const auto begin = batch.size() * topology.rank() / topology.world_size();
    const auto end = batch.size() * (topology.rank() + 1) / topology.world_size();
    device_waits();
    auto [loss, output] = model(Topology::is_distributed ? slice(batch, begin, end) : batch);
    loss.backward();
    step();
    for (auto& one : device_waits()) found.waits.push_back(std::move(one));
    found.tensors.emplace_back("pooled", of_all_ranks(topology, output.values()));
  }
  gather_tables(model, found.tensors);
  return found;
}

/// Batches for tables, a feature each; of so many rows, and bags of that many ids at most.
std::vector<PooledBatch> batches_for(const Tables& tables, std::uint64_t seed, int count, std::int64_t rows, std::int64_t longest) {
  Draw draw(seed);
  std::vector<std::string> keys;
  std::vector<std::int64_t> sizes;
  for (const auto& config : tables.configs()) {
    keys.push_back(config.name);
    sizes.push_back(config.managed_collision ? 1'000'000 : config.num_embeddings);
  }
  std::vector<PooledBatch> batches;
  for (int i = 0; i < count; ++i)
    batches.push_back({random_features(draw, keys, sizes, rows, {.longest_bag = longest}),
                       draw.tensor({rows, tables.width()}, tables.data_type())});
  return batches;
}

double worst(const Tensors& one, const Tensors& other) {
  REQUIRE(one.size() == other.size());
  double gap = 0;
  for (std::size_t i = 0; i < one.size(); ++i) gap = std::max(gap, difference(one[i].second, other[i].second));
  return gap;
}

}  // namespace

TEST_SUITE("sharding/device_values") {
  TEST_CASE("one process with its model on a device equals one on the host, for every lookup and rule") {
    for (const auto dtype : {at::kDouble, at::kFloat})
      for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        const auto trial = draw_trial(seed, 1, dtype);
        const auto rounds = draw_rounds(trial);
        Local there(fake_device);
        fake::operators = 0;
        CHECK(compare(trial, train_locally(trial, rounds), train(there, trial.placement, trial, rounds)) == "");
        CHECK(fake::operators > 100);
      }
  }

  TEST_CASE("ranks with a device each equal one process on the host, under every kind of plan") {
    for (std::uint64_t seed = 1; seed <= 24; ++seed)
      REQUIRE(check_equivalence_on_fake_devices(seed, seed % 2 == 0 ? at::kDouble : at::kFloat, with_fake_device()) == "");
  }

  TEST_CASE("neither a pass over tables on a device nor a step of them waits for it") {
    const Tables tables{{.name = "a", .num_embeddings = 50, .embedding_dim = 4, .optimizer = RowwiseAdagrad{}},
                        {.name = "b", .num_embeddings = 9, .embedding_dim = 3, .pooling = PoolingType::mean, .optimizer = Adagrad{}}};
    const auto batches = batches_for(tables, 3, 6, 20, 5);
    Local there(fake_device), here;
    const auto found = trained(there, tables, batches);
    CHECK(found.waits.empty());
    CHECK(worst(trained(here, tables, batches).tensors, found.tensors) <= tolerance(at::kFloat, "sgd", 6));
  }

  TEST_CASE("rows that thousands of ids name, and bags of hundreds") {
    const Tables tables{{.name = "a", .num_embeddings = 3, .embedding_dim = 5, .optimizer = Sgd{.learning_rate = 1e-4}},
                        {.name = "b", .num_embeddings = 4000, .embedding_dim = 2, .pooling = PoolingType::mean,
                         .optimizer = RowwiseAdagrad{}}};
    const auto batches = batches_for(tables, 4, 2, 40, 400);
    Local there(fake_device), here;
    CHECK(worst(trained(here, tables, batches).tensors, trained(there, tables, batches).tensors) <= tolerance(at::kFloat, "sgd", 2));
  }

  TEST_CASE("narrow tables round as on the host, and every plan rounds alike") {
    for (const auto dtype : {at::kHalf, at::kBFloat16})
      for (const bool stochastic : {true, false})
        for (std::uint64_t seed = 0; seed < 6; ++seed) {
          const Tables tables{{.name = "a", .num_embeddings = 30, .embedding_dim = 6, .data_type = dtype,
                               .optimizer = RowwiseAdagrad{.learning_rate = .01}, .stochastic_rounding = stochastic},
                              {.name = "b", .num_embeddings = 12, .embedding_dim = 4, .data_type = dtype,
                               .optimizer = Sgd{.learning_rate = .01}, .stochastic_rounding = stochastic}};
          const auto batches = batches_for(tables, seed, 1, 12, 4);
          Local there(fake_device), here;
          const auto host = trained(here, tables, batches).tensors, device = trained(there, tables, batches).tensors;
          CHECK(worst(host, device) <= spacing(dtype, 1));   // float32 may lie on the other side of where rounding changes
          Tensors sharded;
          on_devices(3, [&](auto& topology) {
            const Constraints constraints{{"a", {.kinds = {ShardingKind::row_wise}}},
                                          {"b", {.kinds = {ShardingKind::column_wise}, .min_partition = 2}}};
            auto found = trained(topology, tables, batches, {.constraints = constraints});
            if (topology.rank() == 0) sharded = std::move(found.tensors);
          });
          CHECK(worst(device, sharded) <= spacing(dtype, 1));
        }
  }

  TEST_CASE("values and gradients travel as float16 and bfloat16 between devices as between hosts") {
    for (const auto type : {CommType::fp16, CommType::bf16})
      for (const auto pooled : {PooledExchange::partial_sums, PooledExchange::unique_rows})
        for (const bool hierarchical : {false, true}) {
          const Tables tables{{.name = "a", .num_embeddings = 30, .embedding_dim = 6, .data_type = at::kDouble,
                               .optimizer = Sgd{.learning_rate = .1}},
                              {.name = "b", .num_embeddings = 12, .embedding_dim = 4, .pooling = PoolingType::mean,
                               .data_type = at::kDouble, .optimizer = RowwiseAdagrad{.learning_rate = .1}}};
          const auto batches = batches_for(tables, 7, 3, 13, 5);
          const ShardingOptions options{.constraints = {{"a", {.kinds = {ShardingKind::row_wise}, .hierarchical = hierarchical}},
                                                        {"b", {.kinds = {ShardingKind::table_wise}}}},
                                        .exchange = {.forward_precision = type, .backward_precision = type, .pooled = pooled}};
          Tensors on_hosts, there;
          const auto run = [&](auto& topology, Tensors& into) {
            auto found = trained(topology, tables, batches, options);
            if (topology.rank() == 0) into = std::move(found.tensors);
          };
          Threads::run(4, [&](Threads topology) { run(topology, on_hosts); }, {.local_world_size = 2});
          on_devices(4, [&](auto& topology) { run(topology, there); }, 2);
          CHECK(worst(on_hosts, there) <= 1e-9);             // float64 that are equal to 1e-15 are rounded alike
        }
  }

  TEST_CASE("the error of a step on devices names ranks and cause as on hosts") {
    check_causes([](const auto& fn) { on_devices(2, fn); });
    const auto run = []<class Loss>(Loss loss, double scale, const char* sentence) {
      on_devices(2, [&](auto& topology) {
        const ShardingPolicy<std::remove_cvref_t<decltype(topology)>> sharding(topology);
        auto model = sharding.apply(ModelAndLoss<Line, Loss, Rows>{{}, loss});
        Optimizer step(model, Sgd{});
        const bool bad = topology.rank() == 1;
        model({at::full({4, 3}, .5), at::full({4}, bad ? 0. : 1.)}).loss.mul(bad ? scale : 1).backward();
        CHECK(step());
        CHECK_THROWS_WITH_AS(step.wait(), sentence, NonFiniteError);
      });
    };
    run(Bce{}, 1e300, "step 1: the gradient of 'over.weight' is not finite because of ranks [1]; no weight was changed");
    for (const bool on_host : {false, true})
      run(LogBce{{}, on_host}, 1, "step 1: the loss's normaliser, summed over ranks, is -inf because of ranks [1]; no weight was changed");
  }

  TEST_CASE("managed collision, rows of their own step count, and ids that are left out, on a device") {
    Tables tables({{.name = "a", .num_embeddings = 16, .embedding_dim = 4, .data_type = at::kDouble,
                    .optimizer = RowCounted{Adam{.learning_rate = .1}}, .managed_collision = ManagedCollision{}},
                   {.name = "b", .num_embeddings = 12, .embedding_dim = 3, .data_type = at::kDouble, .optimizer = RowwiseAdagrad{}}},
                  {.bad_ids = BadIds::drop});
    auto batches = batches_for(tables, 8, 6, 10, 3);
    for (auto& batch : batches)
      batch.features = KeyedJaggedTensor::from_lengths(batch.features.keys(), batch.features.values().mul(2), batch.features.lengths());
    Local there(fake_device), here;
    CHECK(worst(trained(here, tables, batches).tensors, trained(there, tables, batches).tensors) <= tolerance(at::kDouble));
  }

  TEST_CASE("a table whose rule is written for the host alone is refused on a device") {
    const Tables tables{{.name = "a", .num_embeddings = 3, .embedding_dim = 2, .optimizer = HostRule{}}};
    Local there(fake_device), here;
    CHECK_NOTHROW(trained(here, tables, batches_for(tables, 1, 1, 4, 2)));
    CHECK_THROWS_WITH_AS(trained(there, tables, {}),
                         doctest::Contains("table 'a' is on a device and its rule host_rule is written for the host alone"), ConfigError);
  }
}

}  // namespace rookery
