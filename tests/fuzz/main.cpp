// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Gives a parser mutated inputs for a while: fuzz CORPUS TARGET SECONDS [SEED]. The input that breaks it is left in fuzz-TARGET.input;
// kept in the corpus, it is tried in every run of the tests from then on.

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>

#include <rookery/core/clock.hpp>

#include "fuzz/targets.hpp"

namespace {

std::string input, path;

/// Leaves the current input in a file; called where the process is about to end.
void keep_input() {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  for (std::size_t at = 0; at < input.size();) {
    const auto written = ::write(file, input.data() + at, input.size() - at);
    if (written <= 0) break;
    at += static_cast<std::size_t>(written);
  }
  ::close(file);
}

void end_on(int signal) {
  keep_input();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace rookery;
  if (argc < 4) return std::fprintf(stderr, "fuzz CORPUS TARGET SECONDS [SEED]\n"), 2;
  const std::string name = argv[2];
  const auto target = std::ranges::find(cases::fuzz_targets, name, &cases::FuzzTarget::name);
  if (target == cases::fuzz_targets.end()) return std::fprintf(stderr, "fuzz: there is no target '%s'\n", argv[2]), 2;
  path = "fuzz-" + name + ".input";
  for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL}) std::signal(signal, end_on);
  const auto seed = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 1;
  const double seconds = std::atof(argv[3]);
  cases::Mutations mutations(std::filesystem::path(argv[1]) / name, seed);
  const Stopwatch clock;
  long long inputs = 0;
  std::string problem;
  for (; problem.empty() && clock.seconds() < seconds; ++inputs) {
    input = mutations.next();
    try {
      problem = target->run(input);
    } catch (const std::exception& error) {
      problem = concat("threw ", error.what());
    }
  }
  std::printf("%s: %lld inputs in %.0f s, seed %llu\n", argv[2], inputs, clock.seconds(), static_cast<unsigned long long>(seed));
  if (problem.empty()) return 0;
  keep_input();
  std::fprintf(stderr, "%s: %s; the input is in %s\n", argv[2], problem.c_str(), path.c_str());
  return 1;
}
