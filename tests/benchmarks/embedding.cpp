// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Our side of tests/benchmarks/run peers: collections and models as a user places and steps them, and the machine's own limits. Commands
// come as lines (worker.hpp); a batch is that of all ranks, of which each takes its rows:
//
//   open subject=collection rows=100,200 pooling=2,1 dim=128 batch=512 rule=sgd u=FILE [z=FILE] [dtype=float32] [ids=int64]
//   open subject=dlrm rows=.. pooling=.. dim=16 batch=2048 rule=sgd u=FILE [z=FILE] [gemm=float32]
//   run law=u what=forward|step|check seconds=.5 least=10 [count=100]
//             a collection of float32 on one process also knows what=gather|change|ascending|stream: limits.hpp's, through its own rows
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
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/models/dlrm.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#ifdef WITH_MPI                              // Meson found it
#include <rookery/topology/mpi.hpp>
#endif
#include <rookery/topology/with_topology.hpp>

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

  std::vector<rk::EmbeddingBagConfig<Set>> configs(const Command& open) const {
    std::vector<rk::EmbeddingBagConfig<Set>> all;
    for (std::int64_t t = 0; t < tables(); ++t)
      all.push_back({.name = rk::concat("t", t),
                     .num_embeddings = rows[static_cast<std::size_t>(t)],
                     .embedding_dim = dim,
                     .feature_names = {rk::concat("f", t)},
                     .data_type = dtype_of(open.text("dtype", "float32")),
                     .initial = rk::Constant{.01},
                     .optimizer = rule_of(open.text("rule", "sgd"))});
    return all;
  }
  /// This rank's rows of every batch, by law.
  std::map<std::string, std::vector<rk::KeyedJaggedTensor>> batches(const Command& open, int rank, int ranks) const {
    std::map<std::string, std::vector<rk::KeyedJaggedTensor>> found;
    for (const auto& [law, all] : requests)
      for (const auto& one : all.batches(tables(), dtype_of(open.text("ids", "int64"))))
        found[law].push_back(ranks == 1 ? one : one.slice(batch * rank / ranks, batch * (rank + 1) / ranks));
    return found;
  }
};

/// Rank 0 answers for all.
template <class Topology> void say(const Topology& topology, const std::string& line) {
  if (topology.rank() == 0) answer(line);
}

/// The machine's own limits on the ids of a workload, through the rows of a placed collection.
class Limits {
 public:
  template <class Model> Limits(Model& model, const Workload& work) : dim_(work.dim) {
    for (const auto& table : model.tables()) {
      rk::check<rk::ConfigError>(table.shards.size() == 1 && table.shards[0].local, "limits are known where tables are whole");
      const auto& storage = table.shards[0].local->storage;
      tables_.push_back({storage.weight().template mutable_data_ptr<float>(), storage.stride()});
    }
    for (const auto& [law, requests] : work.requests) rows_.try_emplace(law, requests.ids, tables_, work.pooling, work.batch);
  }
  static bool knows(const std::string& what) { return what == "gather" || what == "change" || what == "ascending" || what == "stream"; }

  std::string run(const Command& run) {
    const auto what = run.text("what");
    if (what == "stream") return rk::concat(R"({"gigabytes_per_second": )", stream_speed(HugePages(std::int64_t{1} << 28)), "}");
    const auto& of_law = rows_.at(run.text("law"));
    const auto& own = what == "gather" ? of_law.of_ids : what == "change" ? of_law.distinct : of_law.ascending;
    const bool changes = what != "gather";
    const auto key = run.text("law") + what;
    if (!best_.contains(key)) best_[key] = best_walking(tables_[0].first, own, dim_, changes);
    const auto how = best_[key];
    auto line = timed(run, [&](std::size_t i) { walk(tables_[0].first, own[i % own.size()], dim_, changes, how); });
    line.pop_back();
    return rk::concat(line, R"(, "prefetch": ")", ahead_names[static_cast<int>(how.ahead)], R"(", "distance": )", how.distance, "}");
  }

 private:
  std::int64_t dim_;
  std::vector<TableRows> tables_;
  std::map<std::string, WalkedRows> rows_;                     // by the law of ids
  std::map<std::string, Walking> best_;                        // found when first asked for
};

/// A forward pass as in evaluation; a step is a forward pass in training, a gradient of the pooled values, and the update.
template <class Topology> bool collection(Topology& topology, const Command& open) {
  const Workload work(open);
  rk::ShardingPolicy<Topology> sharding{topology};
  auto model = sharding.apply(rk::EmbeddingBagCollection<Set>{work.configs(open)});
  rk::Optimizer step{model, rk::Sgd{.learning_rate = .1}};
  const auto batches = work.batches(open, topology.rank(), topology.world_size());
  const auto gradient = rk::ops::full({batches.begin()->second[0].stride(), work.tables() * work.dim}, 1e-3, at::kFloat);   // [b, sum(D)]
  std::optional<Limits> limits;
  say(topology, "{}");
  return serve([&](const Command& run) {
    if (Limits::knows(run.text("what"))) {
      if (!limits) limits.emplace(model, work);
      return say(topology, limits->run(run));
    }
    const auto& own = batches.at(run.text("law"));
    const auto forward = [&](std::size_t i) { return model(own[i % own.size()]).values(); };       // [b, sum(D)]
    const auto one_step = [&](std::size_t i) {
      model.train();
      auto pooled = forward(i);                                                                    // [b, sum(D)]
      pooled.mutable_grad() = gradient;                        // what backward leaves that computes it, without a copy
      step();
    };
    const auto what = run.text("what");
    if (what == "step") return say(topology, timed(run, one_step));
    model.train(false);
    const at::NoGradGuard no_grad;
    if (what == "forward") return say(topology, timed(run, forward));
    rk::check<rk::ConfigError>(what == "check", "a collection does not know what=", what);
    model.train();
    for (std::size_t i = 0; i < 3; ++i) {
      const at::AutoGradMode grad(true);
      one_step(i);
    }
    model.train(false);
    say(topology, rk::concat(R"({"sum": )", forward(0).sum(at::kDouble).template item<double>(), "}"));
  });
}

/// Rows of a click log.
struct Clicks {
  at::Tensor dense, labels;                                    // [B, 13], [B]
  rk::KeyedJaggedTensor ids;
  std::int64_t size() const { return dense.size(0); }
};

/// Dense numbers and labels as the peers have them.
Clicks clicks(const rk::KeyedJaggedTensor& ids) {
  const auto rows = ids.stride();
  auto dense = rk::ops::empty({rows, 13}, at::kFloat), labels = rk::ops::empty({rows}, at::kFloat);   // [b, 13], [b]
  for (std::int64_t i = 0; i < rows * 13; ++i) dense.mutable_data_ptr<float>()[i] = static_cast<float>(i * 7919 % 1000) / 1000;
  for (std::int64_t i = 0; i < rows; ++i) labels.mutable_data_ptr<float>()[i] = i % 4 == 0 ? 1 : 0;
  return {std::move(dense), std::move(labels), ids};
}

/// The whole step of a DLRM with the layers of the Kaggle data set; SGD on all that is dense.
template <class Topology> bool dlrm(Topology& topology, const Command& open) {
  const Workload work(open);
  rk::ShardingPolicy<Topology> sharding{topology};
  const auto gemm = dtype_of(open.text("gemm", "float32"));
  rk::Dlrm<Set> declared(work.configs(open), 13, {512, 256, 64, work.dim}, {512, 256, 1}, at::kFloat, gemm);
  auto model = sharding.apply(rk::ModelAndLoss<rk::Dlrm<Set>, rk::Bce, Clicks>{std::move(declared), {}});
  rk::Optimizer step{model, rk::Sgd{.learning_rate = .1}};
  std::map<std::string, std::vector<Clicks>> batches;
  for (const auto& [law, all] : work.batches(open, topology.rank(), topology.world_size()))
    for (const auto& ids : all) batches[law].push_back(clicks(ids));
  say(topology, "{}");
  return serve([&](const Command& run) {
    const auto& own = batches.at(run.text("law"));
    const auto what = run.text("what");
    if (what == "forward") return say(topology, timed(run, [&](std::size_t i) { model.predict(own[i % own.size()]); }));
    rk::check<rk::ConfigError>(what == "step", "a model does not know what=", what);
    say(topology, timed(run, [&](std::size_t i) {
          model(own[i % own.size()]).loss.backward();
          step();
        }));
  });
}

template <class Topology> int listen(Topology& topology) {
  if (const char* commands = std::getenv("ROOKERY_COMMANDS"))  // of several ranks each has a pipe: mpirun's stdin is rank 0's
    rk::check<rk::DataError>(std::freopen(rk::concat(commands, ".", topology.rank()).c_str(), "r", stdin) != nullptr, "cannot read '",
                             commands, "'");
  if (const char* threads = std::getenv("OMP_NUM_THREADS")) at::set_num_threads(std::atoi(threads));
  answer(rk::concat(R"({"pid": )", getpid(), "}"));            // every rank
  for (std::string line; std::getline(std::cin, line);) {
    const auto open = Command::parse(line);
    rk::check<rk::ConfigError>(open.word == "open", "'", open.word, "' comes before open");
    const auto subject = open.text("subject");
    if (subject == "dlrm" ? !dlrm(topology, open) : !collection(topology, open)) break;
    say(topology, "{}");                                       // closed, its memory given back
  }
  return 0;
}

}  // namespace

int main() {
  try {
#ifdef WITH_MPI
    return rk::with_topology<rk::Local, rk::Mpi>(rk::Environment::read(), [](auto topology) { return listen(topology); });
#else
    return rk::with_topology<rk::Local>(rk::Environment::read(), [](auto topology) { return listen(topology); });
#endif
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
