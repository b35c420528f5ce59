// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Ranks that are killed, stopped, throw or leave, as often as asked for; `tests/run faults` builds and runs it.
//
//   faults [--runs N] [--seed S] [--fault F1|F2|F3|F4] [--ranks W]
//
// N faults of each kind on 2, 3 and 4 processes over Gloo. One that is not answered as it should be prints its seed. The last line is
// `runs N, failed F`.

#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include "faults/faults.hpp"

namespace rk = rookery;

namespace {

int run(int count, char** arguments) {
  std::map<std::string, std::string> options{{"--runs", "50"}, {"--seed", "1"}, {"--fault", ""}, {"--ranks", "0"}};
  for (int i = 1; i < count; i += 2) {
    const auto option = options.find(arguments[i]);
    rk::check<rk::ConfigError>(option != options.end() && i + 1 < count, "'", arguments[i], "' is no option with a value; there are "
                               "--runs, --seed, --fault and --ranks");
    option->second = arguments[i + 1];
  }
  const auto number = [&](const char* name) {
    const auto value = rk::detail::whole_number(options[name]);
    rk::check<rk::ConfigError>(value && *value >= 0, name, " is '", options[name], "'; it must be a number");
    return *value;
  };
  std::vector<std::string> ids;
  for (const auto* id : rk::cases::fault_ids)
    if (options["--fault"].empty() || options["--fault"] == id) ids.emplace_back(id);
  rk::check<rk::ConfigError>(!ids.empty(), "--fault is '", options["--fault"], "'; there are F1, F2, F3 and F4");
  const auto ranks = number("--ranks");
  rk::check<rk::ConfigError>(ranks == 0 || (ranks > 1 && ranks <= 8), "--ranks is ", ranks, "; it must be 2 to 8");
  const auto worlds = ranks == 0 ? std::vector<int>{2, 3, 4} : std::vector<int>{ranks};
  return rk::cases::run_faults(ids, worlds, number("--runs"), static_cast<std::uint64_t>(number("--seed"))) == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "faults: %s\n", error.what());
    return 2;
  }
}
