// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What train_dlrm was asked for. Its parts are a file each so that no compiler needs much memory: the command line, the training, and
// the training on each kind of topology.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <rookery/planner/plan.hpp>
#include <rookery/topology/environment.hpp>

namespace rookery { class Table; }

namespace examples {

namespace rk = rookery;

struct TrainDlrmOptions {
  std::string schema, data;
  std::int64_t epochs = 3, batch_size = 256, accumulate = 1, embedding_dim = 16, log_every = 100, prefetch = 2, threads = 0;
  std::vector<std::int64_t> bottom{64, 16}, over{64, 32, 1};
  std::string table_optimizer = "rowwise_adagrad", dense_optimizer = "adam", initial = "normal", gemm = "float32";
  double table_learning_rate = 0.02, dense_learning_rate = 0.001, stddev = 0.01, clip_norm = 0;
  std::vector<std::string> row_wise, without, frozen;
  std::string part = "test", metrics_file = "metrics.jsonl";
  std::uint64_t seed = 0;
  double best_auc = 0;
  bool skip_non_finite = false;
  std::string plan_file;
  rk::Plan plan;                                               // what the file says
  rk::Environment environment;
};

/// Set by Ctrl-C; the training loops of all ranks look at it together.
inline std::atomic<bool> interrupted{false};

/// Trains and evaluates on this rank; rank 0 reports. Gives the status for the shell.
template <class Topology>
int train_dlrm(Topology& topology, const std::shared_ptr<const rk::Table>& table, const TrainDlrmOptions& options);

}  // namespace examples
