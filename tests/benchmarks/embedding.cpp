// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Our side of tests/benchmarks/run peers: collections as a user places and steps them, and the machine's own limits. Commands come as lines
// (worker.hpp):
//
//   open subject=collection rows=100,200 pooling=2,1 dim=128 batch=512 rule=sgd u=FILE [z=FILE] [dtype=float32] [ids=int64]
//   open subject=limit rows=.. pooling=.. dim=.. batch=.. u=FILE [z=FILE]
//   run law=u what=forward|step|check seconds=.5 least=10          of a limit: what=gather|change|ascending|stream
//   close

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>

#include "benchmarks/limits.hpp"
#include "benchmarks/worker.hpp"

namespace rk = rookery;
using namespace rookery::benchmarks;

namespace {

using Set = rk::Rules<rk::RowwiseAdagrad, rk::Sgd, rk::Adam>;

/// As the peers have them.
rk::RuleChoice<Set> rule_of(const std::string& name) {
  if (name == "sgd") return rk::Sgd{.learning_rate = .1};
  if (name == "adam") return rk::Adam{.learning_rate = 1e-3};
  rk::check<rk::ConfigError>(name == "rowwise_adagrad", "rule '", name, "'");
  return rk::RowwiseAdagrad{.learning_rate = .1, .eps = .1};
}
at::ScalarType dtype_of(const std::string& name) {
  const std::map<std::string, at::ScalarType> known{{"float32", at::kFloat}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16},
                                                    {"int64", at::kLong},    {"int32", at::kInt}};
  rk::check<rk::ConfigError>(known.contains(name), "dtype '", name, "'");
  return known.at(name);
}

/// What every subject is opened with.
struct Workload {
  std::vector<std::int64_t> rows, pooling;
  std::int64_t dim, batch;
  std::map<std::string, Requests> requests;                    // by the law of ids

  explicit Workload(const Command& open)
      : rows(open.numbers("rows")), pooling(open.numbers("pooling")), dim(open.number("dim")), batch(open.number("batch")) {
    const auto ids = batch * std::accumulate(pooling.begin(), pooling.end(), std::int64_t{0});
    for (const auto* law : {"u", "z"})
      if (open.values.contains(law)) requests[law] = Requests::read(open.text(law), tables() * batch, ids);
  }
  std::int64_t tables() const { return static_cast<std::int64_t>(rows.size()); }
};

/// A forward pass as in evaluation; a step is a forward pass in training, a gradient of the pooled values, and the update.
template <class Topology> bool collection(Topology& topology, const Command& open) {
  const Workload work(open);
  std::vector<rk::EmbeddingBagConfig<Set>> tables;
  for (std::int64_t t = 0; t < work.tables(); ++t)
    tables.push_back({.name = rk::concat("t", t),
                      .num_embeddings = work.rows[static_cast<std::size_t>(t)],
                      .embedding_dim = work.dim,
                      .feature_names = {rk::concat("f", t)},
                      .data_type = dtype_of(open.text("dtype", "float32")),
                      .initial = rk::Constant{.01},
                      .optimizer = rule_of(open.text("rule", "sgd"))});
  rk::ShardingPolicy<Topology> sharding{topology};
  auto model = sharding.apply(rk::EmbeddingBagCollection<Set>{std::move(tables)});
  rk::Optimizer step{model, rk::Sgd{.learning_rate = .1}};
  std::map<std::string, std::vector<rk::KeyedJaggedTensor>> batches;
  for (const auto& [law, requests] : work.requests) batches[law] = requests.batches(work.tables(), dtype_of(open.text("ids", "int64")));
  const auto gradient = rk::ops::full({work.batch, work.tables() * work.dim}, 1e-3, at::kFloat);   // [B, sum(D)]
  answer("{}");
  return serve([&](const Command& run) {
    const auto& own = batches.at(run.text("law"));
    const auto forward = [&](std::size_t i) { return model(own[i % own.size()]).values(); };       // [B, sum(D)]
    const auto one_step = [&](std::size_t i) {
      model.train();
      auto pooled = forward(i);                                                                    // [B, sum(D)]
      pooled.mutable_grad() = gradient;                        // what backward leaves that computes it, without a copy
      step();
    };
    const auto what = run.text("what");
    if (what == "step") return timed(run.real("seconds"), run.number("least"), one_step);
    if (what == "forward") {
      model.train(false);
      const at::NoGradGuard no_grad;
      return timed(run.real("seconds"), run.number("least"), forward);
    }
    rk::check<rk::ConfigError>(what == "check", "a collection does not know what=", what);
    for (std::size_t i = 0; i < 3; ++i) one_step(i);
    model.train(false);
    const at::NoGradGuard no_grad;
    return rk::concat(R"({"sum": )", forward(0).sum(at::kDouble).template item<double>(), "}");
  });
}

bool limit(const Command& open) {
  const Workload work(open);
  const HugePages table(std::accumulate(work.rows.begin(), work.rows.end(), std::int64_t{0}) * work.dim);
  std::map<std::string, WalkedRows> rows;
  for (const auto& [law, requests] : work.requests) rows.try_emplace(law, requests.ids, work.rows, work.pooling, work.batch);
  std::map<std::string, Walking> best;
  answer("{}");
  return serve([&](const Command& run) {
    const auto what = run.text("what");
    if (what == "stream") return rk::concat(R"({"gigabytes_per_second": )", stream_speed(table), "}");
    const auto& of_law = rows.at(run.text("law"));
    const auto& own = what == "gather" ? of_law.of_ids : what == "change" ? of_law.distinct : of_law.ascending;
    const bool changes = what != "gather";
    rk::check<rk::ConfigError>(!changes || what == "change" || what == "ascending", "a limit does not know what=", what);
    const auto key = run.text("law") + what;
    if (!best.contains(key)) best[key] = best_walking(table, own, work.dim, changes);
    auto line = timed(run.real("seconds"), run.number("least"), [&](std::size_t i) { walk(table, own[i % own.size()], work.dim, changes, best[key]); });
    line.pop_back();
    return rk::concat(line, R"(, "prefetch": ")", ahead_names[static_cast<int>(best[key].ahead)], R"(", "distance": )", best[key].distance, "}");
  });
}

}  // namespace

int main() {
  try {
    if (const char* threads = std::getenv("OMP_NUM_THREADS")) at::set_num_threads(std::atoi(threads));
    answer(rk::concat(R"({"pid": )", getpid(), "}"));
    rk::Local here;
    for (std::string line; std::getline(std::cin, line);) {
      const auto open = Command::parse(line);
      rk::check<rk::ConfigError>(open.word == "open", "'", open.word, "' comes before open");
      if (!(open.text("subject") == "limit" ? limit(open) : collection(here, open))) break;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
