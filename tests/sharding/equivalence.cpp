// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The law "sharded equals local" on as many random plans as asked for; `tests/run equivalence` builds and runs it.
//
//   equivalence [--plans N] [--seed S] [--dtype float64|float32] [--topology threads|gloo]
//
// On Gloo every rank is a process that examples/launch, torchrun or another launcher starts, and rank 0 compares and prints.
// A plan that differs prints its seed: `--plans 1 --seed S` replays it. The last line is `plans N, differing D`.

#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <rookery/topology/gloo.hpp>

#include "support/equivalence.hpp"

namespace rk = rookery;

namespace {

std::uint64_t number(const std::string& flag, const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  rk::check<rk::ConfigError>(error == std::errc{} && end == text.data() + text.size(), flag, " is '", text, "'; it must be a number");
  return value;
}

int run(int count, char** arguments) {
  std::map<std::string, std::string> options{{"--plans", "300"}, {"--seed", "1"}, {"--dtype", "float64"}, {"--topology", "threads"}};
  for (int i = 1; i < count; i += 2) {
    const auto option = options.find(arguments[i]);
    rk::check<rk::ConfigError>(option != options.end() && i + 1 < count, "'", arguments[i], "' is no option with a value; there are "
                               "--plans, --seed, --dtype and --topology");
    option->second = arguments[i + 1];
  }
  const auto &dtype = options["--dtype"], &topology = options["--topology"];
  rk::check<rk::ConfigError>(dtype == "float64" || dtype == "float32", "--dtype is '", dtype, "'; there are float64 and float32");
  rk::check<rk::ConfigError>(topology == "threads" || topology == "gloo", "--topology is '", topology, "'; there are threads and gloo");
  const auto plans = number("--plans", options["--plans"]), first = number("--seed", options["--seed"]);
  std::uint64_t differing = 0;
  std::optional<rk::Gloo> gloo;
  if (topology == "gloo") {
    rk::check<rk::ConfigError>(rk::ProcessEnvironment::is_launched(), "--topology gloo: no launcher has started this process");
    gloo = rk::Gloo::join(rk::ProcessEnvironment::read());
  }
  for (auto seed = first; seed < first + plans; ++seed) {
    const auto trial = rk::cases::draw_trial(seed, gloo ? gloo->world_size() : 0, dtype == "float64" ? at::kDouble : at::kFloat);
    const auto wrong = gloo ? rk::cases::check_equivalence_on(*gloo, trial) : rk::cases::check_equivalence(trial);
    if (wrong.empty()) continue;
    ++differing;
    std::printf("%s\n  replay: tests/run equivalence --plans 1 --seed %llu --dtype %s --topology %s\n", wrong.c_str(),
                static_cast<unsigned long long>(seed), dtype.c_str(), topology.c_str());
  }
  if (gloo) gloo->leave();
  if (gloo && gloo->rank() > 0) return 0;
  std::printf("plans %llu, differing %llu\n", static_cast<unsigned long long>(plans), static_cast<unsigned long long>(differing));
  return differing == 0 ? 0 : 1;
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
