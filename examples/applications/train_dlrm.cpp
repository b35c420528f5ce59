// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Trains a DLRM on a table of examples that a TOML file describes, on one rank or several, and evaluates it on the held-out part.
//
//   train_dlrm --schema movielens.toml --data folder-of-the-files
//   train_dlrm --schema mine.toml --ranks 4 --row-wise user --epochs 2
//   torchrun --nproc-per-node 2 --no-python train_dlrm --schema mine.toml --plan plan.json
//   mpirun -n 2 train_dlrm --schema mine.toml
//   train_dlrm --schema mine.toml --device cuda
//   torchrun --nproc-per-node 8 --no-python train_dlrm --schema mine.toml --topology nccl

#include <ATen/Parallel.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>

#include <rookery/core/text.hpp>
#include <rookery/planner/plan_json.hpp>
#include <rookery/topology/cuda.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/local.hpp>
#ifdef WITH_MPI                              // Meson found it
#include <rookery/topology/mpi.hpp>
#endif
#ifdef WITH_NCCL
#include <rookery/topology/nccl.hpp>
#endif
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/topology/with_topology.hpp>

#include "command_line.hpp"
#include "schema_toml.hpp"
#include "train_dlrm/options.hpp"

namespace {

namespace rk = rookery;

examples::TrainDlrmOptions parse(int argc, char** argv) {
  examples::TrainDlrmOptions options;
  options.environment = rk::Environment::read();
  const auto at_least_one = examples::whole_number(1), at_least_none = examples::whole_number(0);
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
  app.add_option("--gemm", options.gemm, "numbers that layers but the last are multiplied in; bfloat16 where the processor has it")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--table-optimizer", options.table_optimizer)->check(CLI::IsMember({"rowwise_adagrad", "adagrad", "adam", "sgd"}));
  app.add_option("--table-learning-rate", options.table_learning_rate);
  app.add_option("--dense-optimizer", options.dense_optimizer)->check(CLI::IsMember({"adagrad", "adam", "sgd"}));
  app.add_option("--dense-learning-rate", options.dense_learning_rate);
  app.add_option("--clip-norm", options.clip_norm, "largest norm of the whole gradient; 0: no clipping")->check(CLI::NonNegativeNumber);
  app.add_flag("--skip-non-finite", options.skip_non_finite, "leave out steps whose gradient is not finite instead of stopping");
  app.add_option("--initial", options.initial, "law of the tables' initial values")->check(CLI::IsMember({"normal", "uniform", "zeros"}));
  app.add_option("--stddev", options.stddev, "of --initial normal")->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed, "of initial values and the order of rows")->check(at_least_none);
  app.add_option("--ranks", options.environment.ranks, "threads of this process, or processes that a launcher has started")
      ->check(at_least_one);
  app.add_option("--topology", options.environment.topology, "local, threads, gloo, mpi or nccl");
  app.add_option("--device", options.environment.device, "cpu or cuda, cuda:1; nccl gives each rank the GPU of its number on its node");
  app.add_option("--threads", options.threads, "OpenMP threads over all ranks; 0: as many as there are cores")->check(at_least_none);
  auto* const row_wise = app.add_option("--row-wise", options.row_wise, "tables whose rows are split over the ranks")->delimiter(',');
  app.add_option("--plan", options.plan_file, "JSON file that says where tables go; plan_tables writes one")->excludes(row_wise);
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
    const bool speaks = rk::ProcessEnvironment::read(false).rank == 0;                          // one of several processes
    if (speaks && error.get_exit_code() == 0) app.exit(error);
    else if (speaks) fmt::print(stderr, "train_dlrm: {}\n", examples::mistake(app, error));
    std::exit(error.get_exit_code() == 0 ? 0 : 2);
  }
  auto& [topology, ranks, otherwise, node_size, device] = options.environment;
  if (app.count("--topology") > 0) otherwise.clear();
  else if (topology == "local" && ranks > 1) topology = "threads";
  return options;
}

/// Processes on one machine share its cores; so do ranks that are threads, which the topology sees to.
void share_cores(const examples::TrainDlrmOptions& options, int ranks_here) {
  const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  const auto team = options.threads > 0 ? options.threads / ranks_here : std::min<std::int64_t>(at::get_num_threads(), cores / ranks_here);
  at::set_num_threads(static_cast<int>(std::max<std::int64_t>(1, team)));
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, [](int) {
    if (examples::interrupted.exchange(true)) std::_Exit(130);           // a second Ctrl-C does not wait
  });
  try {
    auto options = parse(argc, argv);
    if (!options.plan_file.empty()) options.plan = rk::load_plan(options.plan_file);
    const auto& topology = options.environment.topology;
    const int ranks = options.environment.ranks;
    const bool by_processes = topology == "gloo" || topology == "mpi" || topology == "nccl";
    const auto started = by_processes ? rk::ProcessEnvironment::read(false) : rk::ProcessEnvironment{};
    rk::check<rk::ConfigError>(!by_processes || ranks == started.world_size, "--ranks ", ranks, " --topology ", topology, ": there ",
                               started.world_size == 1 ? "is 1 process" : rk::concat("are ", started.world_size, " processes"),
                               "; start as many as there are ranks by examples/run, torchrun, mpirun or srun");
    share_cores(options, started.local_world_size);
    if (topology == "local" && !options.environment.device.empty()) rk::device_named(options.environment.device);   // before data is read
    const auto table = examples::load_clicks(options.schema, options.data);
    const auto run = [&](auto joined) { return examples::train_dlrm(joined, table, options); };
    return rk::with_topology<rk::Local, rk::Threads, rk::Gloo
#ifdef WITH_MPI
                             , rk::Mpi
#endif
#ifdef WITH_NCCL
                             , rk::Nccl
#endif
                             >(options.environment, run);
  } catch (const std::exception& error) {
    fmt::print(stderr, "train_dlrm: {}\n", rk::one_line(error));
    return 1;
  }
}
