// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/train/pipeline.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/embedding/managed_collision.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/modules/dropout.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/train/batches.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

struct Batch {
  at::Tensor labels;                                         // [B]
  KeyedJaggedTensor bags, weighted, managed;
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() {
    return rookery::members("labels", &Batch::labels, "bags", &Batch::bags, "weighted", &Batch::weighted, "managed", &Batch::managed);
  }
};
struct Output {
  at::Tensor logits;                                         // [B]
};
using Bags = EmbeddingBagCollection<Rules<Adam>>;
using Table = EmbeddingBagConfig<Rules<Adam>>;

/// Where per-sample weights come from: the data, the data with dropout, a parameter.
enum class Weights { given, dropped, learned };

Table table(std::string name, PoolingType pooling = PoolingType::sum) {
  return {.name = std::move(name), .num_embeddings = 24, .embedding_dim = 6, .pooling = pooling, .optimizer = Adam{.learning_rate = .05}};
}
Bags managed_table() {
  auto managed = table("managed");
  managed.managed_collision = ManagedCollision{.interval = 2, .buckets = 6};
  return {std::vector<Table>{std::move(managed)}};
}

struct Model {
  Bags bags{std::vector<Table>{table("sum"), table("mean", PoolingType::mean)}};
  Bags weighted{std::vector<Table>{table("weighted")}, {.is_weighted = true}};
  Bags managed = managed_table();
  Mlp over{24, {4, 1}, FinalActivation::none};
  Parameter factor{{1}, Uniform{1}};                         // of all weights, when they are learned
  Dropout dropout{.3};
  Weights weights = Weights::given;
  static constexpr auto members() {
    return rookery::members("bags", &Model::bags, "weighted", &Model::weighted, "managed", &Model::managed, "over", &Model::over, "factor",
                            &Model::factor, "dropout", &Model::dropout);
  }
  auto lookups(const Batch& b) const {
    return rookery::lookups(lookup<&Model::bags>(b.bags), lookup<&Model::weighted>(with_weights(b)), lookup<&Model::managed>(b.managed));
  }
  Output forward(const Batch&, const auto& pooled) {
    const auto x = at::cat({get<&Model::bags>(pooled).values(), get<&Model::weighted>(pooled).values(),
                            get<&Model::managed>(pooled).values()}, 1);                      // [B, 24]
    return {over(x).squeeze(1)};                                                             // [B]
  }

 private:
  /// A weight for each id, one id a row.
  KeyedJaggedTensor with_weights(const Batch& b) const {
    if (weights == Weights::given) return b.weighted;
    const auto of_ids = weights == Weights::dropped ? dropout(b.weighted.weights()) : b.weighted.weights().mul(factor.tensor().exp());
    return KeyedJaggedTensor::from_lengths(b.weighted.keys(), b.weighted.values(), b.weighted.lengths(), of_ids, b.weighted.stride());
  }
};

Batch draw_batch(std::uint64_t seed, std::int64_t rows) {
  cases::Draw draw(seed);
  auto labels = draw.tensor({rows}).gt(0).to(at::kFloat);
  auto bags = cases::random_features(draw, {"sum", "mean"}, {24, 24}, rows);
  const auto one_each = at::ones({rows}, at::kLong);
  auto weighted = KeyedJaggedTensor::from_lengths({"weighted"}, draw.tensor({rows}).mul(12).add(12).to(at::kLong), one_each,
                                                  draw.tensor({rows}, at::kFloat), rows);
  auto managed = KeyedJaggedTensor::from_lengths({"managed"}, draw.tensor({rows}).mul(20).to(at::kLong).mul(1'000'003), one_each, {}, rows);
  return {std::move(labels), std::move(bags), std::move(weighted), std::move(managed)};
}

/// Batches of these sizes.
struct Batches {
  std::uint64_t seed = 0;
  std::vector<std::int64_t> rows;
  std::size_t given = 0;
  std::optional<Batch> next() {
    if (given == rows.size()) return {};
    const auto i = given++;
    return draw_batch(100 * seed + i, rows[i]);
  }
};

/// What is done with a batch beside or instead of a training step.
enum class Turn { skip, twice, predict_other, predict_this, evaluate_other, evaluate_only, end_evaluating, leave, leave_after };

struct How {
  std::map<std::string, ShardingKind> kinds{};               // of tables
  Weights weights = Weights::given;
  /// Of each rank's batches.
  std::vector<std::vector<std::int64_t>> rows = {{5, 3, 0, 6, 4, 2, 7, 5}, {2, 6, 1, 0, 0, 3, 5, 4}, {0, 1, 4, 2, 6, 0, 3, 3}};
  RunOut run_out = RunOut::stop;
  std::map<std::size_t, Turn> turns{};                       // by batch; all others are trained on
};
How all_tables(ShardingKind kind) {
  How how{.kinds = {{"sum", kind}, {"mean", kind}, {"weighted", kind}}};
  if (kind != ShardingKind::data_parallel) how.kinds["managed"] = kind;   // a vocabulary has one place for each id
  return how;
}

template <class Topology> auto placed(Topology& topology, const How& how) {
  ShardingOptions options{.seed = 7};
  for (const auto& [name, kind] : how.kinds) options.constraints[name] = {.kinds = {kind}, .min_partition = 2};
  Model declared;
  declared.weights = how.weights;
  return maybe_shard_model(ModelAndLoss<Model, Bce, Batch>{std::move(declared), {}}, topology, options);
}

using Tensors = std::vector<at::Tensor>;

/// Everything that a rank's loop leaves behind.
template <class Topology> Tensors train(Topology& topology, const How& how, bool ahead) {
  auto model = placed(topology, how);
  Optimizer step(model, Adam{.learning_rate = .02});
  const auto rank = static_cast<std::uint64_t>(topology.rank());
  Tensors found;
  std::size_t i = 0;
  const auto trained = [&](const Batch& batch) {
    auto [loss, output] = model(batch);
    loss.backward();
    step();
    found.push_back(loss.detach().clone());
    found.push_back(output.logits.detach().clone());
  };
  const auto evaluated = [&](const Batch& batch) {
    model.train(false);
    found.push_back(model(batch).output.logits.clone());
    model.train();
  };
  const auto goes_on = [&](const Batch& batch) {
    const auto turn = how.turns.find(i++);
    model.train();
    if (turn != how.turns.end()) {
      if (turn->second == Turn::skip) return true;
      if (turn->second == Turn::leave) return false;
      if (turn->second == Turn::twice) trained(batch);
      if (turn->second == Turn::predict_other) found.push_back(model.predict(draw_batch(40 + rank, 3)).logits);
      if (turn->second == Turn::predict_this) found.push_back(model.predict(batch).logits);
      if (turn->second == Turn::evaluate_other) evaluated(draw_batch(50 + rank, 4));
      if (turn->second == Turn::evaluate_only) {
        evaluated(batch);
        return true;
      }
    }
    trained(batch);
    if (turn != how.turns.end() && turn->second == Turn::end_evaluating) model.train(false);   // while a batch begins
    return turn == how.turns.end() || turn->second != Turn::leave_after;
  };
  auto source = batches(topology, Batches{rank, how.rows[rank]}, how.run_out, draw_batch(0, 0));
  if (ahead) {
    for (const auto& batch : pipelined<SparseDist>(model, std::move(source)))
      if (!goes_on(batch)) break;
  } else {
    for (const auto& batch : source)
      if (!goes_on(batch)) break;
  }
  model.train();
  for (std::uint64_t more = 0; more < 2; ++more) trained(draw_batch(1000 + 10 * rank + more, 4));
  auto all = draw_batch(0, 40);
  all.managed = KeyedJaggedTensor::from_lengths({"managed"}, at::arange(-20, 20, at::kLong).mul(1'000'003), at::ones({40}, at::kLong));
  found.push_back(model.predict(all).logits);                // which rows the vocabulary gives
  for (const auto* name : {"sum", "mean", "weighted", "managed"}) {
    found.push_back(gather_table(model, name));
    found.push_back(gather_state(model, name, "exp_avg"));
  }
  model.for_each_parameter([&](auto, const Parameter& parameter) { found.push_back(parameter.tensor().detach().clone()); });
  return found;
}

/// Of all ranks, one after the other; on 1 rank on Local.
Tensors train_on(int ranks, const How& how, bool ahead) {
  Local local;
  if (ranks == 1) return train(local, how, ahead);
  std::vector<Tensors> found(static_cast<std::size_t>(ranks));
  Threads::run(ranks, [&](Threads topology) { found[static_cast<std::size_t>(topology.rank())] = train(topology, how, ahead); },
               {.timeout = std::chrono::seconds(20)});
  Tensors all;
  for (const auto& one : found) all.insert(all.end(), one.begin(), one.end());
  return all;
}

/// "" or which of the tensors that both loops leave behind differ.
std::string differs(int ranks, const How& how) {
  const auto plain = train_on(ranks, how, false), ahead = train_on(ranks, how, true);
  if (plain.size() != ahead.size()) return concat(plain.size(), " and ", ahead.size(), " tensors");
  std::string wrong;
  for (std::size_t i = 0; i < plain.size(); ++i)
    if (!at::equal(plain[i], ahead[i])) wrong += concat(" ", i);
  return wrong;
}

/// Threads that note the verbs of a rank in order; all_to_all_v of whole numbers is "ids".
struct Recording : Threads {
  explicit Recording(Threads inner) : Threads(std::move(inner)) {}
  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
    ++(*verbs)[send.scalar_type() == at::kLong ? "ids" : "values"];
    return Threads::all_to_all_v(std::move(send), std::move(send_counts), std::move(recv_counts));
  }
  auto all_reduce(at::Tensor tensor, ReduceOp op) {
    ++(*verbs)["all_reduce"];
    return Threads::all_reduce(std::move(tensor), op);
  }
  auto reduce_scatter_v(at::Tensor tensor, Counts counts) {
    ++(*verbs)["reduce_scatter_v"];
    return Threads::reduce_scatter_v(std::move(tensor), std::move(counts));
  }
  auto all_gather_v(at::Tensor tensor) {
    ++(*verbs)["all_gather_v"];
    return Threads::all_gather_v(std::move(tensor));
  }
  auto broadcast(at::Tensor tensor, int root) {
    ++(*verbs)["broadcast"];
    return Threads::broadcast(std::move(tensor), root);
  }
  auto barrier() {
    ++(*verbs)["barrier"];
    return Threads::barrier();
  }
  std::shared_ptr<std::map<std::string, int>> verbs = std::make_shared<std::map<std::string, int>>();
};

struct Recorded {
  std::vector<int> before_pass, before_backward, after_step; // messages with ids that have left
  std::map<std::string, int> verbs{};                        // of the whole loop
};

/// Of rank 0 of two.
Recorded recorded(bool ahead) {
  Recorded found;
  Threads::run(2, [&](Threads threads) {
    Recording topology(std::move(threads));
    auto model = placed(topology, all_tables(ShardingKind::row_wise));
    Optimizer step(model, Adam{});
    topology.verbs->clear();
    Recorded mine;
    const auto pass = [&](const Batch& batch) {
      auto& ids = (*topology.verbs)["ids"];
      mine.before_pass.push_back(ids);
      const auto loss = model(batch).loss;
      mine.before_backward.push_back(ids);
      loss.backward();
      step();
      mine.after_step.push_back(ids);
    };
    auto source = batches(topology, Batches{static_cast<std::uint64_t>(topology.rank()), {4, 2, 3, 5}});
    if (ahead) {
      for (const auto& batch : pipelined<SparseDist>(model, std::move(source))) pass(batch);
    } else {
      for (const auto& batch : source) pass(batch);
    }
    mine.verbs = *topology.verbs;
    if (topology.rank() == 0) found = std::move(mine);
  });
  return found;
}

/// A source whose third batch has a bad id on the rank, if any.
struct WithBadId {
  Batches batches;
  bool is_bad = true;
  std::optional<Batch> next() {
    auto batch = batches.next();
    if (is_bad && batch && batches.given == 3) batch->bags.values().fill_(24);
    return batch;
  }
};

/// Passes of each rank until the id 24 of batch 2 on the last rank ends the loop; what was said.
std::pair<std::vector<int>, std::string> passes_until_bad_id(int ranks, bool ahead) {
  std::vector<int> passes(static_cast<std::size_t>(ranks));
  const auto run = [&](auto topology) {
    auto model = placed(topology, all_tables(ShardingKind::row_wise));
    Optimizer step(model, Adam{});
    const auto pass = [&](const Batch& batch) {
      model(batch).loss.backward();
      step();
      ++passes[static_cast<std::size_t>(topology.rank())];
    };
    WithBadId source{{3, {4, 4, 4, 4}}, topology.rank() == ranks - 1};
    if (ahead) {
      for (const auto& batch : pipelined<SparseDist>(model, source)) pass(batch);
    } else {
      while (const auto batch = source.next()) pass(*batch);
    }
  };
  try {
    if (ranks == 1) run(Local{});
    else Threads::run(ranks, run, {.timeout = std::chrono::seconds(20)});
  } catch (const IndexError& error) {
    return {passes, error.what()};
  }
  return {passes, ""};
}

}  // namespace

TEST_SUITE("train/pipeline") {
  TEST_CASE("every bit is the plain loop's: outputs, losses, tables, state, vocabularies, dense parameters") {
    for (const int ranks : {1, 2, 3})
      for (const auto kind : {ShardingKind::table_wise, ShardingKind::row_wise, ShardingKind::column_wise, ShardingKind::data_parallel}) {
        CAPTURE(ranks);
        CAPTURE(static_cast<int>(kind));
        CHECK(differs(ranks, all_tables(kind)) == "");
      }
  }

  TEST_CASE("weights of ids: from a parameter they are those of their own step; modules in lookups() see the rows of their batch") {
    for (const int ranks : {1, 2, 3})
      for (const auto weights : {Weights::learned, Weights::dropped}) {
        auto how = all_tables(ShardingKind::row_wise);
        how.weights = weights;
        CHECK(differs(ranks, how) == "");
      }
  }

  TEST_CASE("batches of unlike sizes, without rows, none, one; ranks that run out at different times") {
    for (const int ranks : {1, 2, 3})
      for (const auto run_out : {RunOut::stop, RunOut::drain}) {
        auto how = all_tables(ShardingKind::row_wise);
        how.run_out = run_out;
        how.rows = {{5, 0, 3, 4, 1}, {2}, {0, 4, 6}};
        CHECK(differs(ranks, how) == "");
        how.rows = {{}, {3, 2}, {4}};
        CHECK(differs(ranks, how) == "");
        how.rows = {{6}, {1}, {0}};
        CHECK(differs(ranks, how) == "");
        how.rows = {{}, {}, {}};
        CHECK(differs(ranks, how) == "");
      }
  }

  TEST_CASE("a loop that is left early: steps go on as if its next batch had never been begun") {
    for (const int ranks : {1, 2, 3})
      for (const auto turn : {Turn::leave, Turn::leave_after})
        for (const std::size_t at : {0, 3, 7}) {
          auto how = all_tables(ShardingKind::row_wise);
          how.turns = {{at, turn}};
          CHECK(differs(ranks, how) == "");
        }
  }

  TEST_CASE("batches that are not passed, and other passes between them") {
    for (const int ranks : {1, 2, 3}) {
      for (const auto turn : {Turn::skip, Turn::twice, Turn::predict_other, Turn::predict_this, Turn::evaluate_other,
                              Turn::evaluate_only, Turn::end_evaluating}) {
        auto how = all_tables(ShardingKind::row_wise);
        how.turns = {{0, turn}, {3, turn}, {4, turn}, {7, turn}};
        CHECK(differs(ranks, how) == "");
      }
      auto how = all_tables(ShardingKind::table_wise);
      how.turns = {{0, Turn::skip}, {1, Turn::predict_this}, {2, Turn::evaluate_only}, {3, Turn::evaluate_other}, {5, Turn::leave}};
      CHECK(differs(ranks, how) == "");
    }
  }

  TEST_CASE("ids of the next batch have left before the backward pass of this one, in as many messages") {
    const auto plain = recorded(false), ahead = recorded(true);
    CHECK(plain.before_pass == std::vector<int>{0, 2, 4, 6});
    CHECK(plain.before_backward == std::vector<int>{2, 4, 6, 8});
    CHECK(ahead.before_pass == std::vector<int>{2, 5, 7, 8});        // counts of this batch and the next; ids of this one, of batch 1 on
    CHECK(ahead.before_backward == std::vector<int>{4, 6, 8, 8});    // ids of both
    CHECK(ahead.after_step == ahead.before_backward);
    CHECK(plain.verbs == ahead.verbs);
    CHECK(plain.verbs.at("ids") == 8);
    CHECK(plain.verbs.at("all_reduce") > 4);
  }

  TEST_CASE("a bad id is an IndexError a turn earlier than in the plain loop, and ends all ranks") {
    for (const int ranks : {1, 2, 3}) {
      const auto [plain, said_by_plain] = passes_until_bad_id(ranks, false);
      const auto [ahead, said] = passes_until_bad_id(ranks, true);
      CHECK(plain == std::vector<int>(static_cast<std::size_t>(ranks), 2));
      CHECK(ahead == std::vector<int>(static_cast<std::size_t>(ranks), 1));
      CHECK_MESSAGE(said.find("24") != said.npos, said);
      CHECK(said_by_plain.find("24") != said.npos);
    }
  }

  TEST_CASE("after an error the model goes on without what was begun") {
    Local topology;
    auto model = placed(topology, {});
    Optimizer step(model, Adam{});
    WithBadId source{{3, {4, 4, 4, 4}}};
    const auto run = [&] {
      for (const auto& batch : pipelined<SparseDist>(model, source)) model(batch).loss.backward();
    };
    CHECK_THROWS_AS(run(), IndexError);
    step.clear();
    auto fresh = placed(topology, {});
    const auto batch = draw_batch(9, 5);
    CHECK(at::equal(model.predict(batch).logits, fresh.predict(batch).logits));
    for (const auto& next : pipelined<SparseDist>(model, Batches{4, {3, 2}}))
      CHECK(at::equal(model.predict(next).logits, fresh.predict(next).logits));
  }

  TEST_CASE("what a loop that was left had begun is not taken for batches that lie where its own lay") {
    Local topology;
    auto model = placed(topology, {}), fresh = placed(topology, {});
    std::optional<Pipelined<SparseDist, decltype(model), Batches>> loop;
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      loop.emplace(model, Batches{seed, {4, 4, 4, 4}});
      std::size_t come = 0;
      for (const auto& batch : *loop) {
        CHECK(at::equal(model(batch).output.logits, fresh.predict(batch).logits));
        if (++come == 3) break;
      }
    }
  }

  TEST_CASE("nothing is copied; batches are const; a source that is an lvalue is drawn one batch further than the loop has come") {
    Local topology;
    auto model = placed(topology, {});
    Batches source{1, {3, 4, 5, 6}};
    {
      auto loop = pipelined<SparseDist>(model, source);
      static_assert(!std::is_copy_constructible_v<decltype(model)>);
      static_assert(!std::is_copy_constructible_v<decltype(loop)>);
      static_assert(std::is_same_v<decltype(*loop.begin()), const Batch&>);
      CHECK(source.given == 0);                              // until it begins
      std::size_t come = 0;
      for (const auto& batch : loop) {
        CHECK(batch.size() == source.rows[come]);
        CHECK(source.given == std::min<std::size_t>(++come + 1, 4));
        if (come == 2) break;
      }
    }
    CHECK(source.given == 3);                                // a third batch that no loop saw
    std::vector<std::int64_t> rest;
    for (const auto& batch : pipelined<SparseDist>(model, source)) rest.push_back(batch.size());
    CHECK(rest == std::vector<std::int64_t>{6});
    std::vector<std::int64_t> all;
    for (const auto& batch : pipelined<SparseDist>(model, Batches{1, {2, 1}})) all.push_back(batch.size());
    CHECK(all == std::vector<std::int64_t>{2, 1});
  }
}

}  // namespace rookery
