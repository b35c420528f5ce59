// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The training of train_dlrm, for any topology.

#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/human.hpp>
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
#include <rookery/train/evaluate.hpp>
#include <rookery/train/pipeline.hpp>

#include "options.hpp"

namespace examples {

using Rules = rk::Rules<rk::RowwiseAdagrad, rk::Adagrad, rk::Adam, rk::Sgd>;
using Model = rk::Dlrm<Rules>;
using Norms = rk::PerParameter<rk::For<"*.bias", rk::MaxAbs>, rk::For<"tables.*", rk::MeanRowNorm>, rk::For<"*", rk::L2Norm>>;

/// Whether any rank has seen Ctrl-C: all ranks leave at the same step.
template <class Topology> bool stop_asked(Topology& topology) {
  const auto flag = at::scalar_tensor(interrupted.load() ? 1.0 : 0.0, at::kDouble);          // []
  return rk::all_reduce(topology, flag, rk::ReduceOp::max).wait().template item<double>() > 0;
}

inline rk::RuleChoice<Rules> table_rule(const TrainDlrmOptions& options) {
  const double rate = options.table_learning_rate;
  if (options.table_optimizer == "adagrad") return rk::Adagrad{.learning_rate = rate};
  if (options.table_optimizer == "adam") return rk::Adam{.learning_rate = rate};
  if (options.table_optimizer == "sgd") return rk::Sgd{.learning_rate = rate};
  return rk::RowwiseAdagrad{.learning_rate = rate};
}

inline Model declare(const TrainDlrmOptions& options, const rk::TableReader& reader) {
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
  const auto gemm = options.gemm == "bfloat16" ? at::kBFloat16 : at::kFloat;
  return {std::move(tables), static_cast<std::int64_t>(reader.dense_names().size()), options.bottom, options.over, at::kFloat, gemm};
}

/// Prints a line. Not by fmt, which would make this the largest file to compile.
template <class... Part> void say(const Part&... parts) { std::puts(rk::concat(parts...).c_str()); }

/// What the run will do: model, tables, placement, memory.
template <class Placed> void introduce(Placed& model, const rk::TableReader& reader, const TrainDlrmOptions& options) {
  std::int64_t dense = 0, bytes = 0;
  model.for_each_parameter([&](auto, const rk::Parameter& parameter) { dense += parameter.numel(); });
  for (const auto& table : model.tables()) bytes += table.description.bytes();
  say("data: ", reader.rows(rk::Part::train), " training rows, ", reader.rows(rk::Part::validation), " validation, ",
      reader.rows(rk::Part::test), " test; ", reader.dense_names().size(), " dense columns, ", reader.features().size(), " id columns");
  say("model: DLRM, bottom ", options.bottom, ", over ", options.over, ", ", dense, " dense parameters, ", options.dense_optimizer);
  say(model.plan().report());
  say("memory: tables and their state ", rk::human_bytes(bytes), ", dense parameters and their state ", rk::human_bytes(dense * 4 * 3),
      " a rank");
  std::fflush(stdout);
}

/// Trains for the epochs asked for; false when Ctrl-C ended it.
template <class Placed, class Step>
bool train(Placed& model, Step& step, const rk::TableReader& reader, const TrainDlrmOptions& options, double& samples_per_s) {
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
    auto ahead = rk::prefetch(reader.epoch(rk::Part::train, static_cast<std::uint64_t>(epoch)), options.prefetch);
    for (const auto& batch : rk::pipelined<rk::SparseDist>(model, ahead)) {
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
int train_dlrm_with(DenseRule dense, Topology& topology, const std::shared_ptr<const rk::Table>& table,
                    const TrainDlrmOptions& options) {
  const rk::TableReader reader{
      table, {.batch_size = options.batch_size, .rank = topology.rank(), .world_size = topology.world_size(), .seed = options.seed}};
  rk::Constraints constraints;
  for (const auto& name : options.row_wise) constraints[name].kinds = {rk::ShardingKind::row_wise};
  rk::ShardingPolicy<Topology> sharding{topology, {.plan = options.plan, .constraints = constraints, .seed = options.seed}};
  auto model = sharding.apply(rk::ModelAndLoss<Model, rk::Bce, rk::TableBatch>{declare(options, reader), {}});
  const bool reports = topology.rank() == 0;
  if (reports) introduce(model, reader, options);
  rk::Optimizer step{
      model, dense, {.clip_norm = options.clip_norm, .non_finite = options.skip_non_finite ? rk::NonFinite::skip : rk::NonFinite::error}};
  double samples_per_s = 0;
  const bool finished = train(model, step, reader, options, samples_per_s);
  if (reports && step.skipped() > 0) say(step.skipped(), " steps were skipped because a gradient was not finite");
  if (!finished) {
    if (reports) say("interrupted after ", step.count(), " steps");
    return 130;
  }
  if (options.part == "none") return 0;
  const auto part = options.part == "train" ? rk::Part::train : options.part == "validation" ? rk::Part::validation : rk::Part::test;
  rk::check<rk::ConfigError>(reader.rows(part) > 0, "the ", options.part, " part of the data has no rows to evaluate on");
  const auto metrics = rk::evaluate(model, rk::prefetch(reader.epoch(part), options.prefetch),
                                    rk::MetricSuite{rk::Auc{}, rk::NormalizedEntropy{}, rk::LogLoss{}, rk::Calibration{}});
  if (!reports) return 0;
  if (options.best_auc > 0 && part == rk::Part::test)
    std::printf("AUC %.4f; the best possible is %.4f\n", metrics.template get<rk::Auc>().value(), options.best_auc);
  std::string line = "{";
  for (const auto& [name, value] : metrics.values()) {
    rk::append_json(line, name);
    line += ": ";
    rk::append_json(line, value);
    line += ", ";
  }
  say(line, "\"samples_per_s\": ", std::llround(samples_per_s), ", \"rows\": ", reader.rows(part), "}");
  return 0;
}

template <class Topology>
int train_dlrm(Topology& topology, const std::shared_ptr<const rk::Table>& table, const TrainDlrmOptions& options) {
  const double rate = options.dense_learning_rate;
  if (options.dense_optimizer == "sgd") return train_dlrm_with(rk::Sgd{.learning_rate = rate}, topology, table, options);
  if (options.dense_optimizer == "adagrad") return train_dlrm_with(rk::Adagrad{.learning_rate = rate}, topology, table, options);
  return train_dlrm_with(rk::Adam{.learning_rate = rate}, topology, table, options);
}

}  // namespace examples
