// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/threads.hpp>

#include <rookery/core/clock.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>

#include <atomic>
#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "faults/faulty.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace std::chrono_literals;

struct Batch {
  at::Tensor labels;                                         // [B]
  KeyedJaggedTensor ids;
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() { return rookery::members("labels", &Batch::labels, "ids", &Batch::ids); }
};
struct Output {
  at::Tensor logits;                                         // [B]
};
using Tables = EmbeddingBagCollection<Rules<RowwiseAdagrad, Adam, Lamb>>;
/// Tables of every way to be cut, with rules that need whole rows, and a dense part.
struct Model {
  Tables tables{{{.name = "whole", .num_embeddings = 20, .embedding_dim = 4, .optimizer = Adam{}},
                 {.name = "rows", .num_embeddings = 30, .embedding_dim = 4, .optimizer = RowwiseAdagrad{}},
                 {.name = "columns", .num_embeddings = 10, .embedding_dim = 8, .optimizer = Lamb{}},
                 {.name = "copies", .num_embeddings = 6, .embedding_dim = 4, .optimizer = Adam{}}}};
  Mlp over{20, {5, 1}, FinalActivation::none};
  static constexpr auto members() { return rookery::members("tables", &Model::tables, "over", &Model::over); }
  auto lookups(const Batch& batch) const { return rookery::lookups(rookery::lookup<&Model::tables>(batch.ids)); }
  Output forward(const Batch&, const auto& pooled) { return {over(get<&Model::tables>(pooled).values()).squeeze(1)}; }
};

constexpr int steps = 4;
using Snapshot = std::vector<at::Tensor>;                    // of all weights and state on a rank

template <class Placed, class Step> Snapshot snapshot(Placed& model, const Step& step) {
  Snapshot found;
  model.for_each_parameter([&](std::string_view, Parameter& one) { found.push_back(one.tensor().detach().clone()); });
  model.for_each_collection([&](std::string_view, auto& collection, std::size_t) {
    for (const auto& local : collection.shards()) found.push_back(local.storage.weight().clone());
  });
  step.for_each_state([&](const OptimizerState& state) { found.push_back(state.tensor.clone()); });
  return found;
}
bool equal(const Snapshot& a, const Snapshot& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) same = at::equal(a[i], b[i]);
  return same;
}

enum class Kind { none, throws, stalls, is_slow };

/// What one rank made of a run.
struct RankRun {
  std::vector<Snapshot> after;                               // each step; the first is that of the start
  Snapshot last;                                             // when it ended
};
struct Run {
  std::vector<RankRun> ranks;
  std::string said;                                          // what it threw
  bool is_data_error = false;
  std::int64_t struck_step = -1;
};

/// Trains on threads, where `victim` goes wrong at `moment`.
Run train(int world, Kind kind, int victim, cases::Moment moment, std::chrono::milliseconds timeout = 30s) {
  Run run{std::vector<RankRun>(static_cast<std::size_t>(world)), {}};
  std::atomic<int> ended = 0;
  const auto body = [&](Threads base) {
    auto& mine = run.ranks[static_cast<std::size_t>(base.rank())];
    std::int64_t at = 0;
    const auto strike = [&] {
      run.struck_step = at;
      if (kind == Kind::throws) fail<DataError>("a bad batch");
      if (kind == Kind::is_slow) std::this_thread::sleep_for(20ms);
      if (kind != Kind::stalls) return;
      for (const Stopwatch clock; ended < world - 1 && clock.seconds() < 20;) std::this_thread::sleep_for(1ms);
      fail<DataError>("too late");
    };
    cases::Faulty<Threads> topology(base, moment, base.rank() == victim ? std::function<void()>(strike) : nullptr);
    struct Counted {
      std::atomic<int>& ended;
      ~Counted() { ++ended; }
    } counted{ended};
    auto model = maybe_shard_model(ModelAndLoss<Model, Bce, Batch>{{}, {}}, topology,
                                   {.constraints = {{"whole", {.kinds = {ShardingKind::table_wise}}},
                                                    {"rows", {.kinds = {ShardingKind::row_wise}}},
                                                    {"columns", {.kinds = {ShardingKind::column_wise}, .min_partition = 2}},
                                                    {"copies", {.kinds = {ShardingKind::data_parallel}}}},
                                    .seed = 3});
    Optimizer step(model, Adam{.learning_rate = .01}, {.clip_norm = .5});
    try {
      mine.after.push_back(snapshot(model, step));
      while (step.count() < steps) {
        at = step.count() + 1;
        cases::Draw draw(static_cast<std::uint64_t>(100 * at + base.rank()));
        const auto rows = draw.integer(0, 8);
        const Batch batch{draw.tensor({rows}).gt(0).to(at::kFloat),
                          cases::random_features(draw, {"whole", "rows", "columns", "copies"}, {20, 30, 10, 6}, rows)};
        auto [loss, output] = model(batch);
        loss.backward();
        step();
        mine.after.push_back(snapshot(model, step));
      }
    } catch (...) {
      mine.last = snapshot(model, step);
      throw;
    }
    mine.last = snapshot(model, step);
  };
  try {
    Threads::run(world, body, {.timeout = timeout});
  } catch (const DataError& error) {
    run.said = error.what();
    run.is_data_error = true;
  } catch (const std::exception& error) {
    run.said = error.what();
  }
  return run;
}

}  // namespace

TEST_SUITE("faults/threads") {
  TEST_CASE("F1 F2 F3 a rank of Threads that fails, stalls or is slow at any collective: one line, no hang, no step half done") {
    std::map<int, Run> healthy;
    for (const int world : {2, 3, 4}) {
      healthy[world] = train(world, Kind::none, 0, {});
      REQUIRE(healthy[world].said == "");
    }
    int failed = 0, was_slow = 0, stalled = 0;
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
      cases::Draw draw(seed);
      const auto world = static_cast<int>(draw.integer(2, 4)), victim = static_cast<int>(draw.integer(0, world - 1));
      const auto kind = draw.chance(.1) ? Kind::stalls : draw.chance(.2) ? Kind::is_slow : Kind::throws;
      const cases::Moment moment{draw.integer(0, steps - 1), draw.integer(0, 12), draw.chance(.5)};
      INFO("seed ", seed, ": rank ", victim, " of ", world, " at step ", moment.step, ", collective ", moment.collective,
           moment.is_after ? ", posted" : "");
      const Stopwatch clock;
      const auto run = train(world, kind, victim, moment, kind == Kind::stalls ? 500ms : 30000ms);
      CHECK(clock.seconds() < 10);
      for (std::size_t rank = 0; rank < run.ranks.size(); ++rank) {
        const auto& mine = run.ranks[rank];
        const auto& good = healthy[world].ranks[rank].after;
        for (std::size_t i = 0; i < mine.after.size(); ++i) CHECK(equal(mine.after[i], good[i]));
        if (mine.after.empty()) continue;                    // it was not placed yet
        const auto done = mine.after.size() - 1;             // steps
        CHECK((equal(mine.last, good[done]) || (done + 1 < good.size() && equal(mine.last, good[done + 1]))));
      }
      REQUIRE(run.struck_step >= 0);
      if (kind == Kind::is_slow) {
        ++was_slow;
        CHECK(run.said == "");
        for (const auto& mine : run.ranks) CHECK(mine.after.size() == steps + 1);
      } else if (kind == Kind::throws) {
        ++failed;
        CHECK(run.is_data_error);
        CHECK(run.said.starts_with(concat("rank ", victim, ", step ", run.struck_step, ", ")));
        CHECK(run.said.ends_with(": a bad batch"));
        if (seed % 8 > 0) continue;
        const auto again = train(world, kind, victim, moment);                               // every rank gets as far
        CHECK(again.said == run.said);
        for (std::size_t rank = 0; rank < run.ranks.size(); ++rank) {
          CHECK(again.ranks[rank].after.size() == run.ranks[rank].after.size());
          CHECK(equal(again.ranks[rank].last, run.ranks[rank].last));
        }
      } else {
        ++stalled;
        CHECK(run.said.ends_with(concat(" waited 500 ms for rank ", victim)));
      }
    }
    CHECK((failed > 100 && was_slow > 10 && stalled > 10));
  }
}

}  // namespace rookery
