// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The program plan_tables as a function, so that tests can call it.

#include <cstdint>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <rookery/core/human.hpp>
#include <rookery/planner/plan_diff.hpp>
#include <rookery/planner/plan_json.hpp>
#include <rookery/planner/planner.hpp>
#include <rookery/topology/calibrate.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/threads.hpp>

#include "command_line.hpp"
#include "tables_file.hpp"

namespace examples {

struct PlanTablesOptions {
  std::string tables, output, diff, plan, device = "cuda";
  int ranks = 1, local_ranks = 0;
  std::uint64_t memory = 0, dense = 0;
  std::uint64_t device_bandwidth = 0, host_bandwidth = 0, intra_node_bandwidth = 0, inter_node_bandwidth = 0;
  std::int64_t batch_size = 512;
  double reserve = .15;
  std::string pipeline = "none";
  std::size_t lines = 16;
  bool calibrate = false;
};

/// What a run of the program says, and the status that it ends with.
struct Said {
  int status = 0;
  std::string out, error;
};

inline void add_options(CLI::App& app, PlanTablesOptions& options) {
  app.option_defaults()->always_capture_default();
  app.add_option("tables", options.tables, "TOML or JSON file that describes the tables; see tables.toml")->required();
  app.add_option("--ranks", options.ranks, "ranks to plan for")->check(whole_number(1));
  app.add_option("--local-ranks", options.local_ranks, "ranks on each node; 0: all on one")->check(whole_number(0));
  app.add_option("--device", options.device, "where the tables are")->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--memory", options.memory, "of each rank, such as 80GB or 512GiB; 0: 32 GiB of a device, 128 GiB of a host")
      ->transform(bytes());
  app.add_option("--batch-size", options.batch_size, "rows of a batch on each rank")->check(whole_number(1));
  app.add_option("--reserve", options.reserve, "share of the memory that tables do not get")->check(CLI::Range(0., 1.));
  app.add_option("--dense", options.dense, "bytes of the dense parameters; six times as much is kept for them")->transform(bytes());
  app.add_option("--pipeline", options.pipeline, "batches under way at once")
      ->check(CLI::IsMember({"none", "sparse_dist", "prefetch_sparse_dist"}));
  app.add_option("--device-bandwidth", options.device_bandwidth, "bytes a second, such as 3TB; 0: a constant")->transform(bytes());
  app.add_option("--host-bandwidth", options.host_bandwidth, "the same of the host's memory")->transform(bytes());
  app.add_option("--intra-node-bandwidth", options.intra_node_bandwidth, "the same of a rank to the ranks of its node")->transform(bytes());
  app.add_option("--inter-node-bandwidth", options.inter_node_bandwidth, "the same to ranks of other nodes")->transform(bytes());
  app.add_flag("--calibrate", options.calibrate, "measure the host's memory and the exchange inside a node on this machine, and ask its GPU");
  app.add_option("--plan", options.plan, "JSON file of a plan to judge, in place of making one");
  app.add_option("--output", options.output, "JSON file to write the plan to, for ShardingOptions::plan");
  app.add_option("--diff", options.diff, "JSON file of a plan to say the differences from");
  app.add_option("--lines", options.lines, "most tables, ranks and moved parts to print")->check(whole_number(0));
}

inline rk::TopologyFacts facts_of(const PlanTablesOptions& options) {
  rk::TopologyFacts facts;
  facts.world_size = options.ranks;
  facts.local_world_size = options.local_ranks;
  facts.device = options.device == "cpu" ? c10::DeviceType::CPU : c10::DeviceType::CUDA;
  facts.validate();
  if (options.calibrate) {
    rk::TopologyFacts measured;
    if (const int local = facts.ranks_per_node(); local > 1) {
      const auto cores = std::max(1U, std::thread::hardware_concurrency());
      rk::check<rk::ConfigError>(local <= 4 * static_cast<int>(cores), "--calibrate: ", local, " ranks of a node on ", cores,
                                 " cores here would measure each other; run it on such a node, or give the bandwidths");
      rk::Threads::run(local, [&](rk::Threads topology) {
        const auto found = rk::calibrate(topology);
        if (topology.rank() == 0) measured = found;
      });
      facts.intra_node_bandwidth = measured.intra_node_bandwidth;
    } else {
      rk::Local here;
      measured = rk::calibrate(here);
    }
    facts.host_bandwidth = measured.host_bandwidth;
    facts.host_memory = measured.host_memory;
  }
  if (options.calibrate && !facts.on_cpu())
    if (const auto gpu = rk::gpu_facts(0); gpu.memory >= 0) rk::learn(facts, gpu, /*exchange_is_measured=*/facts.ranks_per_node() > 1);
  if (options.memory > 0) (facts.on_cpu() ? facts.host_memory : facts.device_memory) = static_cast<std::int64_t>(options.memory);
  const auto give = [](double& bandwidth, std::uint64_t given) {
    if (given > 0) bandwidth = static_cast<double>(given);
  };
  give(facts.device_bandwidth, options.device_bandwidth);
  give(facts.host_bandwidth, options.host_bandwidth);
  give(facts.intra_node_bandwidth, options.intra_node_bandwidth);
  give(facts.inter_node_bandwidth, options.inter_node_bandwidth);
  return facts;
}

inline std::string describe(const rk::TopologyFacts& facts) {
  const auto rate = [](double bytes) { return rk::concat(rk::human_bytes(static_cast<std::int64_t>(bytes)), "/s"); };
  return rk::concat(facts.world_size, facts.world_size == 1 ? " rank on " : " ranks on ", facts.nodes(),
                    facts.nodes() == 1 ? " node, " : " nodes, ", rk::human_bytes(facts.memory()), " each; tables are read at ",
                    rate(facts.on_cpu() ? facts.host_bandwidth : facts.device_bandwidth), ", exchange is at ",
                    rate(facts.intra_node_bandwidth), " in a node and ", rate(facts.inter_node_bandwidth), " between nodes\n");
}

/// A plan out of a file, for these tables. Errors: ConfigError that starts with the file when it is none for them.
inline rk::Plan load_plan_for(const std::string& path, const TablesFile& file, const rk::TopologyFacts& facts) {
  auto plan = rk::load_plan(path);
  try {
    plan = rk::complete(plan, file.tables, facts.world_size, facts.ranks_per_node());
    rk::validate(plan, file.tables, facts.world_size);
  } catch (const rk::PlanError& error) {
    rk::fail<rk::ConfigError>(path, ": ", error.what());
  }
  return plan;
}

/// Plans, or judges a plan, and says what comes of it; status 1 where nothing fits.
inline int plan_tables(const PlanTablesOptions& options, std::string& out) {
  const auto file = load_tables(options.tables);
  const auto facts = facts_of(options);
  rk::PlannerOptions planner;
  planner.batch_size = options.batch_size;
  planner.reservation.fraction = options.reserve;
  planner.reservation.dense_bytes = static_cast<std::int64_t>(options.dense);
  planner.storage.pipeline = options.pipeline == "none"          ? rk::TrainPipeline::none
                             : options.pipeline == "sparse_dist" ? rk::TrainPipeline::sparse_dist
                                                                 : rk::TrainPipeline::prefetch_sparse_dist;
  out += describe(facts);
  rk::Plan plan;
  rk::PlanEstimate estimate;
  if (options.plan.empty()) {
    auto planned = rk::make_plan(file.tables, facts, file.constraints, planner);
    plan = std::move(planned.plan), estimate = std::move(planned.estimate);
  } else {
    plan = load_plan_for(options.plan, file, facts);
    estimate = rk::estimate_plan(plan, file.tables, facts, file.constraints, planner);
  }
  std::int64_t fullest = 0;
  for (const auto& rank : estimate.ranks) fullest = std::max(fullest, rank.bytes());
  out += rk::concat("\n", estimate.report(options.lines), "\nhash ", rk::detail::hexadecimal(plan.hash()), "\n");
  if (!options.diff.empty()) {
    auto other = rk::load_plan(options.diff);
    if (other.world_size == 0) other = load_plan_for(options.diff, file, facts);
    const auto lines = rk::diff(other, plan, options.lines, facts.ranks_per_node());
    out += lines.empty() ? rk::concat("\nthe same plan as ", options.diff, "\n") : rk::concat("\nfrom ", options.diff, ":\n", lines);
  }
  out += rk::concat(estimate.fits() ? "\nit fits" : "\nit does not fit", ": the fullest rank needs ", rk::human_bytes(fullest), " of ",
                    rk::human_bytes(estimate.capacity()), "\n");
  if (!options.output.empty()) rk::save_plan(options.output, plan);
  if (estimate.fits()) return 0;
  out += "without --plan a plan is made that fits, or it is said what would be enough\n";
  return 1;
}

/// The program: status 0 where the tables fit, 1 where they do not, with what would be enough, and another for mistakes of the caller.
inline Said plan_tables(std::vector<std::string> arguments) {
  PlanTablesOptions options;
  CLI::App app{"Plans embedding tables for ranks that need not exist: do they fit, where do they go, what will a step cost?"};
  add_options(app, options);
  Said said;
  std::vector<char*> argv;
  arguments.insert(arguments.begin(), "plan_tables");
  for (auto& argument : arguments) argv.push_back(argument.data());
  try {
    app.parse(static_cast<int>(argv.size()), argv.data());
    said.status = plan_tables(options, said.out);
  } catch (const CLI::ParseError& error) {
    std::ostringstream help;
    said.status = app.exit(error, help, help) == 0 ? 0 : 2;
    if (said.status == 0) said.out = help.str();
    else said.error = rk::concat("plan_tables: ", mistake(app, error), "\n");
  } catch (const rk::PlanError& error) {
    said.status = 1;
    said.error = rk::concat("plan_tables: ", rk::one_line(error), "\n");
  } catch (const std::exception& error) {
    said.status = 2;
    said.error = rk::concat("plan_tables: ", rk::one_line(error), "\n");
  }
  return said;
}

}  // namespace examples
