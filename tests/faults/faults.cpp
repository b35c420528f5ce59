// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Ranks that are killed, stopped, throw or leave, as often as asked for; `tests/run faults` builds and runs it.
//
//   faults [--runs N] [--seed S] [--fault F1|F2|F3|F4] [--ranks W] [--topology gloo|mpi]
//
// N faults of each kind on 2, 3 and 4 processes, over Gloo if nothing else is said. One that is not answered as it should be prints its seed. The last line is
// `runs N, failed F`.

#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include <rookery/topology/gloo.hpp>
#ifdef WITH_MPI
#include <rookery/topology/mpi.hpp>
#endif

#include "faults/faults.hpp"

namespace rk = rookery;

namespace {

int run(int count, char** arguments) {
  std::map<std::string, std::string> options{{"--runs", "50"}, {"--seed", "1"}, {"--fault", ""}, {"--ranks", "0"}, {"--topology", "gloo"}};
  for (int i = 1; i < count; i += 2) {
    const auto option = options.find(arguments[i]);
    rk::check<rk::ConfigError>(option != options.end() && i + 1 < count, "'", arguments[i], "' is no option with a value; there are "
                               "--runs, --seed, --fault, --ranks and --topology");
    option->second = arguments[i + 1];
  }
  const auto number = [&](const char* name) {
    const auto value = rk::detail::whole_number(options[name]);
    rk::check<rk::ConfigError>(value && *value >= 0, name, " is '", options[name], "'; it must be a number");
    return *value;
  };
  std::vector<rk::cases::FaultKind> kinds;
  for (std::size_t i = 1; i < rk::cases::fault_ids.size(); ++i)
    if (options["--fault"].empty() || options["--fault"] == rk::cases::fault_ids[i]) kinds.push_back(static_cast<rk::cases::FaultKind>(i));
  rk::check<rk::ConfigError>(!kinds.empty(), "--fault is '", options["--fault"], "'; there are F1, F2, F3 and F4");
  const auto ranks = number("--ranks"), runs = number("--runs");
  rk::check<rk::ConfigError>(ranks == 0 || (ranks > 1 && ranks <= 8), "--ranks is ", ranks, "; it must be 2 to 8");
  const auto worlds = ranks == 0 ? std::vector<int>{2, 3, 4} : std::vector<int>{ranks};
  const auto seed = static_cast<std::uint64_t>(number("--seed"));
  const auto& topology = options["--topology"];
  if (topology == "gloo") return rk::cases::run_faults<rk::Gloo>(kinds, worlds, runs, seed) == 0 ? 0 : 1;
#ifdef WITH_MPI
  if (topology == "mpi") return rk::cases::run_faults<rk::Mpi>(kinds, worlds, runs, seed) == 0 ? 0 : 1;
#endif
  rk::fail<rk::ConfigError>("--topology is '", topology, "'; there are gloo and, in a program built with MPI, mpi");
}
#ifdef WITH_MPI
[[maybe_unused]] const bool listed = rk::cases::roles().emplace("fault_rank", &rk::cases::play_fault_rank<rk::Mpi>).second;
#endif

}  // namespace

int main(int count, char** arguments) {
  try {
    if (const auto role = rk::cases::role_to_play()) return role();
    return run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "faults: %s\n", error.what());
    return 2;
  }
}
