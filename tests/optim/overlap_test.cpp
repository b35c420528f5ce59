// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/optim/overlap.hpp>

#include <ATen/ops/equal.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rookery/optim/gradient_buckets.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "optim/overlap_cases.hpp"
#include "support/processes.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases::overlap;

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

std::vector<at::Tensor> train_on(int ranks, const How& how) {
  std::vector<at::Tensor> found;
  Threads::run(ranks, [&](Threads topology) {
    auto mine = train(topology, how);
    if (topology.rank() == 0) found = std::move(mine);
  });
  return found;
}

int play_overlap() {
  return cases::play([](Gloo& topology) { return differs(topology); });
}
[[maybe_unused]] const bool listed = cases::roles().emplace("overlap", &play_overlap).second;

}  // namespace

TEST_SUITE("optim/overlap") {
  TEST_CASE("with overlap every bit is as without, whatever ranks reach, with clipping, divided by pass, in passes, and twice the same") {
    for (const int ranks : {1, 2, 3})
      for (const auto& how : all_ways()) {
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

  TEST_CASE("processes over Gloo: with overlap every bit is as without") {
    for (const int ranks : {2, 3}) {
      const auto ended = cases::run_processes("overlap", ranks);
      CHECK(ended.said == "");
      CHECK(ended.status == 0);
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
      CHECK(*topology.sums == after + 2);                    // norms, the last once rows are updated; nothing dense is left to send
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
      CHECK(*topology.sums == buckets + 2);
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
        return *topology.sums - 2;                             // norms
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
