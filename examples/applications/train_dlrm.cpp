// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Trains a DLRM on a table of examples that a TOML file describes, on one rank or several, and evaluates it on the held-out part.
//
//   train_dlrm --schema movielens.toml --data folder-of-the-files
//   train_dlrm --schema mine.toml --ranks 4 --row-wise user --epochs 2

#include <CLI/CLI.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/human.hpp>
#include <rookery/core/text.hpp>
#include <rookery/data/prefetch.hpp>
#include <rookery/data/table_reader.hpp>
#include <rookery/log/json_lines.hpp>
#include <rookery/log/progress.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/weight_logger.hpp>
#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/calibration.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/models/dlrm.hpp>
#include <rookery/rookery.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/train/evaluate.hpp>

#include "schema_toml.hpp"
#include "unknown_options.hpp"

namespace rk = rookery;

namespace {

using Rules = rk::Rules<rk::RowwiseAdagrad, rk::Adagrad, rk::Adam, rk::Sgd>;
using Model = rk::Dlrm<Rules>;
using Norms = rk::PerParameter<rk::For<"*.bias", rk::MaxAbs>, rk::For<"tables.*", rk::MeanRowNorm>, rk::For<"*", rk::L2Norm>>;

struct Options {
  std::string schema, data;
  std::int64_t epochs = 3, batch_size = 256, accumulate = 1, embedding_dim = 16, log_every = 100, prefetch = 2, threads = 0;
  std::vector<std::int64_t> bottom{64, 16}, over{64, 32, 1};
  std::string table_optimizer = "rowwise_adagrad", dense_optimizer = "adam", initial = "normal";
  double table_learning_rate = 0.02, dense_learning_rate = 0.001, stddev = 0.01, clip_norm = 0;
  std::vector<std::string> row_wise, without, frozen;
  std::string part = "test", metrics_file = "metrics.jsonl";
  std::uint64_t seed = 0;
  double best_auc = 0;
  bool skip_non_finite = false;
  rk::Environment environment;
};

/// Set by Ctrl-C; the training loops of all ranks look at it together.
std::atomic<bool> interrupted{false};

Options parse(int argc, char** argv) {
  Options options;
  options.environment = rk::Environment::read();
  const auto at_least_one = CLI::Range(std::int64_t{1}, std::int64_t{1} << 40, "POSITIVE");
  CLI::App app{"Trains a DLRM on a table of examples described by a TOML file."};
  app.option_defaults()->always_capture_default();
  app.add_option("--schema", options.schema, "TOML file that says what the columns mean")->required();
  app.add_option("--data", options.data, "folder of the data files (default: beside the schema)");
  app.add_option("--epochs", options.epochs)->check(at_least_one);
  app.add_option("--batch-size", options.batch_size, "rows of a batch, over all ranks")->check(at_least_one);
  app.add_option("--accumulate", options.accumulate, "batches a step")->check(at_least_one);
  app.add_option("--embedding-dim", options.embedding_dim, "columns of every table")->check(at_least_one);
  app.add_option("--bottom", options.bottom, "layers over the dense columns; the last is --embedding-dim wide")->delimiter(',');
  app.add_option("--over", options.over, "layers over the dot products; the last is 1 wide")->delimiter(',');
  app.add_option("--table-optimizer", options.table_optimizer)->check(CLI::IsMember({"rowwise_adagrad", "adagrad", "adam", "sgd"}));
  app.add_option("--table-learning-rate", options.table_learning_rate);
  app.add_option("--dense-optimizer", options.dense_optimizer)->check(CLI::IsMember({"adagrad", "adam", "sgd"}));
  app.add_option("--dense-learning-rate", options.dense_learning_rate);
  app.add_option("--clip-norm", options.clip_norm, "largest norm of the whole gradient; 0: no clipping")->check(CLI::NonNegativeNumber);
  app.add_flag("--skip-non-finite", options.skip_non_finite, "leave out steps whose gradient is not finite instead of stopping");
  app.add_option("--initial", options.initial, "law of the tables' initial values")->check(CLI::IsMember({"normal", "uniform", "zeros"}));
  app.add_option("--stddev", options.stddev, "of --initial normal")->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed, "of initial values and the order of rows");
  app.add_option("--ranks", options.environment.ranks, "ranks, as threads of this process")->check(at_least_one);
  app.add_option("--topology", options.environment.topology, "local or threads");
  app.add_option("--threads", options.threads, "OpenMP threads over all ranks; 0: as many as there are cores");
  app.add_option("--row-wise", options.row_wise, "tables whose rows are split over the ranks")->delimiter(',');
  app.add_option("--without", options.without, "id columns to leave out")->delimiter(',');
  app.add_option("--frozen", options.frozen, "tables that are looked up and never trained; 'all' for every table")->delimiter(',');
  app.add_option("--evaluate", options.part, "the part to evaluate on")->check(CLI::IsMember({"test", "validation", "train", "none"}));
  app.add_option("--best-auc", options.best_auc, "best AUC possible on the test part, printed beside the reached one; 0: unknown");
  app.add_option("--log-every", options.log_every, "steps between reports")->check(at_least_one);
  app.add_option("--metrics-file", options.metrics_file, "one JSON object a report; empty: none");
  app.add_option("--prefetch", options.prefetch, "batches built ahead of training")->check(at_least_one);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    if (status != 0) fmt::print(stderr, "{}", examples::about_unknown_options(app));
    std::exit(status);
  }
  if (options.environment.ranks > 1 && app.count("--topology") == 0) options.environment.topology = "threads";
  return options;
}

/// Whether any rank has seen Ctrl-C: all ranks leave at the same step.
template <class Topology> bool stop_asked(Topology& topology) {
  const auto flag = at::scalar_tensor(interrupted.load() ? 1.0 : 0.0, at::kDouble);          // []
  return rk::all_reduce(topology, flag, rk::ReduceOp::max).wait().template item<double>() > 0;
}

rk::RuleChoice<Rules> table_rule(const Options& options) {
  const double rate = options.table_learning_rate;
  if (options.table_optimizer == "adagrad") return rk::Adagrad{.learning_rate = rate};
  if (options.table_optimizer == "adam") return rk::Adam{.learning_rate = rate};
  if (options.table_optimizer == "sgd") return rk::Sgd{.learning_rate = rate};
  return rk::RowwiseAdagrad{.learning_rate = rate};
}

Model declare(const Options& options, const rk::TableReader& reader) {
  const rk::Initial initial = options.initial == "normal"    ? rk::Initial{rk::Normal{options.stddev}}
                              : options.initial == "uniform" ? rk::Initial{rk::Uniform{}}
                                                             : rk::Initial{rk::Zeros{}};
  const auto has = [](const std::vector<std::string>& names, const std::string& name) {
    return std::ranges::find(names, name) != names.end();
  };
  rk::check<rk::ConfigError>(!reader.dense_names().empty(), options.schema, ": no dense columns are given; a DLRM needs one or more");
  std::vector<rk::EmbeddingBagConfig<Rules>> tables;
  for (const auto& feature : reader.features())
    if (!has(options.without, feature.name))
      tables.push_back({.name = feature.name,
                        .num_embeddings = feature.num_embeddings,
                        .embedding_dim = options.embedding_dim,
                        .initial = initial,
                        .optimizer = table_rule(options),
                        .frozen = has(options.frozen, "all") || has(options.frozen, feature.name)});
  for (const auto* names : {&options.without, &options.frozen, &options.row_wise})
    for (const auto& name : *names)
      rk::check<rk::ConfigError>((names == &options.frozen && name == "all") ||
                                     std::ranges::any_of(reader.features(), [&](const auto& f) { return f.name == name; }),
                                 "'", name, "' is not an id column of the schema");
  return {std::move(tables), static_cast<std::int64_t>(reader.dense_names().size()), options.bottom, options.over};
}

/// What the run will do: model, tables, placement, memory.
template <class Placed> void introduce(Placed& model, const rk::TableReader& reader, const Options& options) {
  std::int64_t dense = 0, bytes = 0;
  model.for_each_parameter([&](auto, const rk::Parameter& parameter) { dense += parameter.numel(); });
  for (const auto& table : model.tables()) bytes += table.description.bytes();
  fmt::print("data: {} training rows, {} validation, {} test; {} dense columns, {} id columns\n", reader.rows(rk::Part::train),
             reader.rows(rk::Part::validation), reader.rows(rk::Part::test), reader.dense_names().size(), reader.features().size());
  fmt::print("model: DLRM, bottom {}, over {}, {} dense parameters, {}\n", rk::concat(options.bottom), rk::concat(options.over), dense,
             options.dense_optimizer);
  fmt::print("{}\n", model.plan().report());
  fmt::print("memory: tables and their state {}, dense parameters and their state {} a rank\n", rk::human_bytes(bytes),
             rk::human_bytes(dense * 4 * 3));
  std::fflush(stdout);
}

/// Trains for the epochs asked for; false when Ctrl-C ended it.
template <class Placed, class Step>
bool train(Placed& model, Step& step, const rk::TableReader& reader, const Options& options, double& samples_per_s) {
  auto& topology = model.topology();
  const auto rows = reader.rows(rk::Part::train);
  std::optional<rk::JsonLines> log;
  if (!options.metrics_file.empty()) log.emplace(topology, options.metrics_file, rk::JsonLinesOptions{.mode = rk::OpenMode::truncate});
  rk::WeightLogger<Norms> norms{model};
  rk::Progress progress{topology, {.total_samples = options.epochs * rows}};
  rk::MetricSuite recent{rk::Auc{}, rk::LogLoss{}};
  std::int64_t batches = 0, seen = 0;
  bool finished = true;
  const rk::Stopwatch clock;
  const auto report = [&](bool last) {
    const auto whole = merged(recent, topology);
    const double loss = whole.template get<rk::LogLoss>().value(), auc = whole.template get<rk::Auc>().value();
    rk::LogValues values{{"loss", loss},
                         {"auc", auc},
                         {"samples_per_s", static_cast<double>(seen) / clock.seconds()},
                         {"gradient_norm", step.gradient_norm()}};
    values.add(norms(model));
    if (log) (*log)(step.count(), values);
    if (last) progress.finish({{"loss", loss}, {"auc", auc}});
    else progress({{"loss", loss}, {"auc", auc}});
    recent.reset();
  };
  for (std::int64_t epoch = 0; epoch < options.epochs && finished; ++epoch) {
    std::int64_t left = rows;
    for (auto& batch : rk::prefetch(reader.epoch(rk::Part::train, static_cast<std::uint64_t>(epoch)), options.prefetch)) {
      auto [loss, output] = model(batch);
      loss.backward();
      if (++batches % options.accumulate == 0) step();
      recent.update_logits(output.logits, batch.labels, batch.weights);
      const auto count = std::min(left, options.batch_size);
      left -= count;
      seen += count;
      progress.add(count);
      if (batches % options.log_every == 0) report(false);
      if (stop_asked(topology)) {
        finished = false;
        break;
      }
    }
  }
  if (batches % options.accumulate != 0) step();
  samples_per_s = static_cast<double>(seen) / clock.seconds();
  report(true);
  return finished;
}

template <class Topology, class DenseRule>
int run(Topology& topology, DenseRule dense, const std::shared_ptr<const rk::Table>& table, const Options& options) {
  const rk::TableReader reader{
      table, {.batch_size = options.batch_size, .rank = topology.rank(), .world_size = topology.world_size(), .seed = options.seed}};
  rk::Constraints constraints;
  for (const auto& name : options.row_wise) constraints[name].kinds = {rk::ShardingKind::row_wise};
  rk::ShardingPolicy<Topology> sharding{topology, {.constraints = constraints, .seed = options.seed}};
  auto model = sharding.apply(rk::ModelAndLoss<Model, rk::Bce, rk::TableBatch>{declare(options, reader), {}});
  const bool reports = topology.rank() == 0;
  if (reports) introduce(model, reader, options);
  rk::Optimizer step{
      model, dense, {.clip_norm = options.clip_norm, .non_finite = options.skip_non_finite ? rk::NonFinite::skip : rk::NonFinite::error}};
  double samples_per_s = 0;
  const bool finished = train(model, step, reader, options, samples_per_s);
  if (reports && step.skipped() > 0) fmt::print("{} steps were skipped because a gradient was not finite\n", step.skipped());
  if (!finished) {
    if (reports) fmt::print("interrupted after {} steps\n", step.count());
    return 130;
  }
  if (options.part == "none") return 0;
  const auto part = options.part == "train" ? rk::Part::train : options.part == "validation" ? rk::Part::validation : rk::Part::test;
  rk::check<rk::ConfigError>(reader.rows(part) > 0, "the ", options.part, " part of the data has no rows to evaluate on");
  const auto metrics = rk::evaluate(model, rk::prefetch(reader.epoch(part), options.prefetch),
                                    rk::MetricSuite{rk::Auc{}, rk::NormalizedEntropy{}, rk::LogLoss{}, rk::Calibration{}});
  if (!reports) return 0;
  if (options.best_auc > 0 && part == rk::Part::test)
    fmt::print("AUC {:.4f}; the best possible is {:.4f}\n", metrics.template get<rk::Auc>().value(), options.best_auc);
  std::string line = "{";
  for (const auto& [name, value] : metrics.values()) {
    rk::append_json(line, name);
    line += ": ";
    rk::append_json(line, value);
    line += ", ";
  }
  fmt::print("{}\"samples_per_s\": {:.0f}, \"rows\": {}}}\n", line, samples_per_s, reader.rows(part));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, [](int) {
    if (interrupted.exchange(true)) std::_Exit(130);           // a second Ctrl-C does not wait
  });
  try {
    const auto options = parse(argc, argv);
    if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
    const auto table = examples::load_clicks(options.schema, options.data);
    return rk::with_topology<rk::Local, rk::Threads>(options.environment, [&](auto topology) {
      if (options.dense_optimizer == "sgd") return run(topology, rk::Sgd{.learning_rate = options.dense_learning_rate}, table, options);
      if (options.dense_optimizer == "adagrad")
        return run(topology, rk::Adagrad{.learning_rate = options.dense_learning_rate}, table, options);
      return run(topology, rk::Adam{.learning_rate = options.dense_learning_rate}, table, options);
    });
  } catch (const std::exception& error) {
    fmt::print(stderr, "train_dlrm: {}\n", rk::one_line(error));
    return 1;
  }
}
