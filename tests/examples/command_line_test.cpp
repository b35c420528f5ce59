// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "../../examples/applications/command_line.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace {

/// What is said of a command line; empty where it is taken.
std::string about(std::vector<std::string> arguments) {
  CLI::App app;
  std::string schema, file;
  int ranks = 1;
  std::uint64_t memory = 0;
  std::vector<int> layers;
  app.add_option("file", file);
  app.add_option("--schema", schema)->required();
  app.add_option("--ranks", ranks)->check(examples::whole_number(1));
  app.add_option("--batch-size", ranks)->check(examples::whole_number(0));
  app.add_option("--memory", memory)->transform(examples::bytes());
  app.add_option("--over", layers)->delimiter(',');
  std::vector<char*> argv;
  arguments.insert(arguments.begin(), "program");
  if (arguments.back() == "alone") arguments.pop_back();
  else arguments.push_back("--schema=a.toml");
  for (auto& argument : arguments) argv.push_back(argument.data());
  try {
    app.parse(static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::ParseError& error) {
    return examples::mistake(app, error);
  }
  return memory > 0 ? rookery::concat(memory) : "";
}

}  // namespace

TEST_SUITE("examples/command_line") {
  TEST_CASE("every mistake is one sentence: options that are not there, values that are missing or cannot be") {
    CHECK(about({"--rank", "2"}) == "--rank is no option; did you mean '--ranks'?");
    CHECK(about({"--rank=2"}) == "--rank is no option; did you mean '--ranks'?");
    CHECK(about({"--batch", "2"}) == "--batch is no option; did you mean '--batch-size'?");
    CHECK(about({"--epochs", "3"}) == "--epochs is no option; --help lists those that there are");
    CHECK(about({"-x"}) == "-x is no option; --help lists those that there are");
    CHECK(about({"one", "two"}) == "'two' belongs to no option");
    CHECK(about({"alone"}) == "--schema is required");
    CHECK(about({"--schma", "a.toml", "alone"}) == "--schma is no option; did you mean '--schema'?");
    CHECK(about({"--schema", "alone"}) == "--schema needs a value");
    CHECK(about({"--ranks", "0"}) == "--ranks: it must be a whole number from 1 on, not '0'");
    CHECK(about({"--ranks", "two"}) == "--ranks: it must be a whole number from 1 on, not 'two'");
    CHECK(about({"--ranks", "2.5"}) == "--ranks: it must be a whole number from 1 on, not '2.5'");
    CHECK(about({"--batch-size", "-1"}) == "--batch-size: it must be a whole number from 0 on, not '-1'");
    CHECK(about({"--ranks", "9999999999"}) == "--ranks cannot be '9999999999'");
    CHECK(about({"--ranks", "2", "--ranks=3"}) == "--ranks may be given once");
    CHECK(about({"--over", "64,x"}) == "--over cannot be '64,x'");
    CHECK(about({"--memory", "much"}) == "--memory: it must be a number of bytes, such as 80GB or 512GiB, not 'much'");
    CHECK(about({"--memory", "-3"}) == "--memory: it must be a number of bytes, such as 80GB or 512GiB, not '-3'");
    CHECK(about({"--memory", "2KiB"}) == "2048");
    CHECK(about({"--memory", "2kB"}) == "2000");
    CHECK(about({}) == "");
  }
}
