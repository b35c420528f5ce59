// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The law "sharded equals local" on as many random plans as asked for; `tests/run equivalence` builds and runs it.
//
//   equivalence [--plans N] [--seed S] [--dtype float64|float32] [--topology threads|nccl-fake|gloo|mpi|nccl]
//
// On Gloo, MPI and NCCL every rank is a process that a launcher starts (examples/launch, examples/mpirun, tests/device/run), and rank 0
// compares and prints. On nccl-fake ranks are threads, 1 to 8 of them, with Nccl over a stand-in for NCCL and the CUDA runtime
// (tests/support/fake_nccl.hpp), and for three seeds of four their models are on a stand-in for a GPU (tests/support/fake_ranks.hpp):
// they must equal one process on the host.
// A plan that differs prints its seed: `--plans 1 --seed S` replays it. The last line is `plans N, differing D`.

#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include <rookery/topology/gloo.hpp>
#ifdef WITH_MPI
#include <rookery/topology/mpi.hpp>
#endif
#ifdef WITH_NCCL
#include <rookery/topology/nccl.hpp>
#endif

#include "support/equivalence.hpp"
#include "support/fake_nccl.hpp"
#ifndef WITH_NCCL                          // a process has one kind of accelerator
#include "support/fake_ranks.hpp"
#endif

namespace rk = rookery;

namespace {

std::uint64_t number(const std::string& flag, const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  rk::check<rk::ConfigError>(error == std::errc{} && end == text.data() + text.size(), flag, " is '", text, "'; it must be a number");
  return value;
}

/// Where the model of a seed is over the stand-in for NCCL: for one of four seeds on the host.
std::shared_ptr<rk::cases::FakeNcclScript> device_of([[maybe_unused]] std::uint64_t seed) {
#ifndef WITH_NCCL
  if (seed / 8 % 4 != 3) return rk::cases::with_fake_device();
#endif
  return nullptr;
}

using Options = std::map<std::string, std::string>;

/// Runs the plans by `check` on `ranks`, or as many as each plan draws where it is 0, and prints the seeds of those that differ.
template <class Check> std::uint64_t differing_plans(const Options& options, int ranks, const Check& check) {
  const auto plans = number("--plans", options.at("--plans")), first = number("--seed", options.at("--seed"));
  const auto& dtype = options.at("--dtype");
  std::uint64_t differing = 0;
  for (auto seed = first; seed < first + plans; ++seed) {
    const std::string wrong = check(rk::cases::draw_trial(seed, ranks, dtype == "float64" ? at::kDouble : at::kFloat));
    if (wrong.empty()) continue;
    ++differing;
    std::printf("%s\n  replay: tests/run equivalence --plans 1 --seed %llu --dtype %s --topology %s\n", wrong.c_str(),
                static_cast<unsigned long long>(seed), dtype.c_str(), options.at("--topology").c_str());
  }
  return differing;
}

int report(const Options& options, std::uint64_t differing) {
  std::printf("plans %s, differing %llu\n", options.at("--plans").c_str(), static_cast<unsigned long long>(differing));
  return differing == 0 ? 0 : 1;
}

template <class Topology> int on_processes(const Options& options) {
  rk::check<rk::ConfigError>(rk::ProcessEnvironment::is_launched(), "--topology ", Topology::name,
                             ": no launcher has started this process");
  auto topology = Topology::join(rk::ProcessEnvironment::read());
  const auto differing =
      differing_plans(options, topology.world_size(), [&](const auto& trial) { return rk::cases::check_equivalence_on(topology, trial); });
  topology.leave();
  return topology.rank() == 0 ? report(options, differing) : 0;
}

int run(int count, char** arguments) {
  Options options{{"--plans", "300"}, {"--seed", "1"}, {"--dtype", "float64"}, {"--topology", "threads"}};
  for (int i = 1; i < count; i += 2) {
    const auto option = options.find(arguments[i]);
    rk::check<rk::ConfigError>(option != options.end() && i + 1 < count, "'", arguments[i], "' is no option with a value; there are "
                               "--plans, --seed, --dtype and --topology");
    option->second = arguments[i + 1];
  }
  const auto &dtype = options["--dtype"], &topology = options["--topology"];
  rk::check<rk::ConfigError>(dtype == "float64" || dtype == "float32", "--dtype is '", dtype, "'; there are float64 and float32");
  if (topology == "gloo") return on_processes<rk::Gloo>(options);
#ifdef WITH_MPI
  if (topology == "mpi") return on_processes<rk::Mpi>(options);
#endif
  rk::check<rk::ConfigError>(topology != "mpi", "--topology mpi: this program was built without MPI");
#ifdef WITH_NCCL
  if (topology == "nccl") return on_processes<rk::Nccl>(options);
#endif
  rk::check<rk::ConfigError>(topology != "nccl", "--topology nccl: this program was built without NCCL; tests/device/run builds it with");
  if (topology == "nccl-fake")
    return report(options, differing_plans(options, 0, [](const auto& trial) {
                    return rk::cases::check_equivalence_on_fake_devices(trial.seed, trial.dtype, device_of(trial.seed));
                  }));
  rk::check<rk::ConfigError>(topology == "threads", "--topology is '", topology, "'; there are threads, nccl-fake, gloo, mpi and nccl");
  return report(options, differing_plans(options, 0, [](const auto& trial) { return rk::cases::check_equivalence(trial); }));
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "equivalence: %s\n", error.what());
    return 2;
  }
}
