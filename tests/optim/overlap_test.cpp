// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/optim/overlap.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/gradient_buckets.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// Threads that count what ranks sum.
struct Counting : Threads {
  explicit Counting(Threads inner) : Threads(std::move(inner)) {}
  auto all_reduce(at::Tensor tensor, ReduceOp op) {
    ++*sums;
    return Threads::all_reduce(std::move(tensor), op);
  }
  std::shared_ptr<int> sums = std::make_shared<int>(0);
};

struct Batch {
  at::Tensor dense;                                          // [B, 5]
  KeyedJaggedTensor ids;
  bool left = true, right = true;                            // the parts that the loss reaches
  std::int64_t size() const { return dense.size(0); }
};
struct Output {
  at::Tensor values;                                         // [B]
};

/// Two towers over one layer, of which a batch uses one, both or none, and a table; with a norm on request.
struct Towers {
  EmbeddingBagCollection<Rules<Adam>> tables;
  Linear below{8, 6};
  std::optional<BatchNorm> norm;
  Mlp left{6, {7, 5, 1}}, right{6, {4, 1}};
  static constexpr auto members() {
    return rookery::members("tables", &Towers::tables, "below", &Towers::below, "norm", &Towers::norm, "left", &Towers::left, "right",
                            &Towers::right);
  }
  auto lookups(const Batch& b) const { return rookery::lookups(rookery::lookup<&Towers::tables>(b.ids)); }
  Output forward(const Batch& b, const auto& pooled) {
    auto x = below(at::cat({b.dense, get<&Towers::tables>(pooled).values()}, 1));            // [B, 6]
    if (norm) x = (*norm)(x);
    auto values = at::zeros({b.size(), 1});
    if (b.left) values = values.add(left(at::relu(x)));
    if (b.right) values = values.add(right(at::relu(x)));
    return {values.squeeze(1)};
  }
};
struct Squares {
  at::Tensor operator()(const Output& output, const Batch&) const { return output.values.sub(1).square().sum(); }
  at::Tensor normaliser(const Batch& b) const { return at::scalar_tensor(static_cast<double>(b.size()), at::kDouble); }
};
ModelAndLoss<Towers, Squares, Batch> declared() {
  Towers towers;
  towers.tables = {{.name = "t", .num_embeddings = 7, .embedding_dim = 3}};
  return {std::move(towers), {}};
}

Batch draw_batch(std::uint64_t seed, std::int64_t rows) {
  Draw draw(seed);
  return {draw.tensor({rows, 5}, at::kFloat), random_features(draw, {"t"}, {7}, rows, {}), draw.chance(.7), draw.chance(.7)};
}

struct How {
  int passes = 1, steps = 6;
  double clip_norm = 0;
  BucketOptions buckets{};
  GradientDivision division = GradientDivision::global_mean;
  bool norm = false;
};

/// Every weight and state after some steps with batches of ranks that reach different parts.
template <class Topology> std::vector<at::Tensor> train(Topology& topology, const How& how) {
  auto towers = declared();
  if (how.norm) towers.model.norm.emplace(6);
  auto model = maybe_shard_model(std::move(towers), topology, {.seed = 3});
  Optimizer step(model, Adam{.learning_rate = .01},
                 {.clip_norm = how.clip_norm, .division = how.division, .buckets = how.buckets});
  std::uint64_t seed = static_cast<std::uint64_t>(topology.rank());
  for (int i = 0; i < how.steps; ++i) {
    for (int pass = 0; pass < how.passes; ++pass) {
      const auto batch = draw_batch(seed += 100, (topology.rank() + i + pass) % 4);
      const auto loss = model(batch).loss;
      loss.backward();
      global_mean(model, loss, batch);                       // another collective between backward and step
    }
    step();
  }
  std::vector<at::Tensor> found{gather_table(model, "t")};
  for (const auto& one : step.dense().parameters()) {
    found.push_back(one.parameter->tensor().detach().clone());
    for (const auto& state : one.state) found.push_back(state.clone());
    found.push_back(at::scalar_tensor(one.steps, at::kLong));
  }
  return found;
}
bool same(const std::vector<at::Tensor>& one, const std::vector<at::Tensor>& other) {
  for (std::size_t i = 0; i < one.size(); ++i)
    if (!at::equal(one[i], other[i])) return false;
  return one.size() == other.size();
}
std::vector<at::Tensor> train_on(int ranks, const How& how) {
  std::vector<at::Tensor> found;
  Threads::run(ranks, [&](Threads topology) {
    auto mine = train(topology, how);
    if (topology.rank() == 0) found = std::move(mine);
  });
  return found;
}

/// Buckets of about 100 bytes, so that there are several of them.
BucketOptions small_buckets(Overlap overlap = {}) { return {.bytes = 100, .first_bytes = 20, .overlap = overlap}; }

}  // namespace

TEST_SUITE("optim/overlap") {
  TEST_CASE("with overlap every bit is as without, whatever ranks reach, with clipping, divided by pass, in passes, and twice the same") {
    for (const int ranks : {1, 2, 3})
      for (const auto& how : {How{}, How{.clip_norm = .1}, How{.division = GradientDivision::mean}, How{.passes = 3}}) {
        auto with = how, alone = how;
        with.buckets = small_buckets(during_backward(how.passes));
        alone.buckets = small_buckets();
        const auto expected = train_on(ranks, alone), found = train_on(ranks, with);
        CHECK(expected.size() > 30);
        CHECK(same(found, expected));
        CHECK(same(found, train_on(ranks, with)));
        CHECK(same(found, train_on(ranks, how)));            // threads sum in rank order, wherever a bucket begins
      }
  }

  TEST_CASE("a norm over all ranks takes backward to step(), where gradients leave then") {
    How how{.norm = true};
    const auto expected = train_on(2, how);
    how.buckets = small_buckets(during_backward());
    CHECK(same(train_on(2, how), expected));
  }

  TEST_CASE("messages leave while backward runs, the last layers' first") {
    Threads::run(2, [](Threads threads) {
      Counting topology(std::move(threads));
      auto model = maybe_shard_model(declared(), topology);
      int at_first_layer = 0;
      model.model().below.weight.tensor().register_hook([&](const at::Tensor&) { at_first_layer = *topology.sums; });
      Optimizer step(model, Adam{}, {.buckets = small_buckets(during_backward())});
      auto batch = draw_batch(1, 4);
      batch.left = batch.right = true;
      const auto loss = model(batch).loss;
      *topology.sums = 0;
      loss.backward();
      const int after = *topology.sums;
      CHECK(at_first_layer == 4);
      CHECK(after == 5);
      step();
      CHECK(*topology.sums == after + 1);                    // norms; nothing dense is left to send
    });
  }

  TEST_CASE("passes before the last send nothing, and a step of fewer sends in step()") {
    Threads::run(2, [](Threads threads) {
      Counting topology(std::move(threads));
      auto model = maybe_shard_model(declared(), topology);
      Optimizer step(model, Adam{}, {.buckets = small_buckets(during_backward(3))});
      const auto run = [&] {
        const auto batch = draw_batch(static_cast<std::uint64_t>(topology.rank()), 4);
        *topology.sums = 0;
        model(batch).loss.backward();
        return *topology.sums;
      };
      CHECK(run() == 0);
      CHECK(run() == 0);
      const int buckets = run();
      CHECK(buckets == 5);
      step();
      CHECK(run() == 0);
      *topology.sums = 0;
      CHECK(step());                                         // of one pass
      CHECK(*topology.sums == buckets + 1);
      run();
      step.clear();                                          // a pass that is forgotten does not count
      CHECK(run() == 0);
      CHECK(run() == 0);
      CHECK(run() == buckets);
      step();
    });
  }

  TEST_CASE("sizes of buckets: one message for all, or one for each parameter") {
    Threads::run(2, [](Threads threads) {
      Counting topology(std::move(threads));
      const auto messages = [&](std::int64_t bytes, std::int64_t first_bytes) {
        auto model = maybe_shard_model(declared(), topology);
        Optimizer step(model, Adam{}, {.buckets = {.bytes = bytes, .first_bytes = first_bytes}});
        model(draw_batch(1, 4)).loss.backward();
        *topology.sums = 0;
        step();
        return *topology.sums - 1;
      };
      CHECK(messages(25 << 20, 1 << 20) == 1);
      CHECK(messages(1, 1) == 12);
      CHECK(messages(25 << 20, 1) == 2);
      auto model = maybe_shard_model(declared(), topology);
      CHECK_THROWS_AS(Optimizer(model, Adam{}, {.buckets = {.bytes = 0}}), ConfigError);
    });
  }

  TEST_CASE("a gradient that comes after it has left is an error that says why") {
    const auto message = [](auto run) {
      try {
        Threads::run(2, [&](Threads topology) {
          auto model = maybe_shard_model(declared(), topology);
          Optimizer step(model, Adam{}, {.buckets = {.overlap = during_backward()}});
          run(model);
        });
      } catch (const Error& error) {
        return std::string(error.what());
      }
      return std::string();
    };
    auto batch = draw_batch(1, 4);
    batch.left = true;
    const auto twice = message([&](auto& model) {
      model(batch).loss.backward();
      model(batch).loss.backward();
    });
    CHECK(twice.find("came after it had left for the other ranks: in a step of more than the 1 passes") != std::string::npos);
    const auto again = message([&](auto& model) {
      const auto loss = model(batch).loss;
      loss.backward({}, /*retain_graph=*/true);
      loss.backward();
    });
    CHECK(again.find("in another backward of one loss") != std::string::npos);
    const auto penalty = [&](bool before) {
      return message([&](auto& model) {
        const auto of_weights = [&] { return model.model().below.weight.tensor().square().sum(); };
        const auto early = of_weights();
        const auto loss = model(batch).loss;
        loss.add(before ? early : of_weights()).backward();
      });
    };
    CHECK(penalty(true).find("'below.weight' came after it had left") != std::string::npos);
    CHECK(penalty(false).empty());
    CHECK_THROWS_AS(during_backward(0), ConfigError);
  }

  TEST_CASE("a gradient that is not finite is skipped, and what had left is forgotten") {
    const auto run = [](bool overlapped, bool bad) {
      std::vector<at::Tensor> found;
      Threads::run(2, [&](Threads topology) {
        auto model = maybe_shard_model(declared(), topology);
        Optimizer step(model, Adam{},
                       {.non_finite = NonFinite::skip, .buckets = small_buckets(overlapped ? during_backward() : Overlap{})});
        for (std::uint64_t i = 0; i < 3; ++i) {
          auto batch = draw_batch(i, 4);
          if (bad) {
            auto worse = draw_batch(i, 4);
            worse.left = true;
            if (topology.rank() == 1) worse.dense.fill_(std::numeric_limits<float>::quiet_NaN());
            model(worse).loss.backward();
            CHECK(!step());
          }
          model(batch).loss.backward();
          CHECK(step());
        }
        if (topology.rank() == 1)
          for (const auto& one : step.dense().parameters()) found.push_back(one.parameter->tensor().detach().clone());
      });
      return found;
    };
    const auto expected = run(false, false);
    CHECK(same(run(true, false), expected));
    CHECK(same(run(true, true), expected));
  }

  TEST_CASE("frozen parameters keep nobody waiting, before and after they train again; another optimizer takes over") {
    const auto run = [](bool overlapped) {
      std::vector<at::Tensor> found;
      Threads::run(2, [&](Threads topology) {
        auto towers = declared();
        towers.model.left.layers[1].weight.freeze();
        auto model = maybe_shard_model(std::move(towers), topology);
        for (int life = 0; life < 2; ++life) {
          Optimizer step(model, Adam{}, {.buckets = small_buckets(overlapped ? during_backward() : Overlap{})});
          for (std::uint64_t i = 0; i < 4; ++i) {
            if (i == 2) {
              model.model().left.layers[1].weight.freeze(life == 1);
              model.model().below.weight.freeze(life == 0);
            }
            model(draw_batch(10 * i + static_cast<std::uint64_t>(topology.rank()), 4)).loss.backward();
            step();
          }
        }
        model.for_each_parameter([&](auto, const Parameter& parameter) {
          if (topology.rank() == 0) found.push_back(parameter.tensor().detach().clone());
        });
      });
      return found;
    };
    CHECK(same(run(true), run(false)));
  }

  TEST_CASE("ranks agree about buckets, and on one process there are none") {
    CHECK_THROWS_AS(Threads::run(2, [](Threads topology) {
      auto model = maybe_shard_model(declared(), topology);
      Optimizer step(model, Adam{}, {.buckets = {.overlap = during_backward(topology.rank() + 1)}});
    }), ConfigError);
    Local local;
    const How plain{}, overlapped{.buckets = small_buckets(during_backward())};
    CHECK(same(train(local, plain), train(local, overlapped)));
  }
}

}  // namespace rookery
