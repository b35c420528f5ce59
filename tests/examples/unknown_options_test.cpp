// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "../../examples/applications/unknown_options.hpp"

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include "support/test.hpp"

namespace {

/// What is said of a command line; empty where it is taken.
std::string about(std::vector<std::string> arguments) {
  CLI::App app;
  std::string schema;
  int ranks = 1;
  app.add_option("--schema", schema)->required();
  app.add_option("--ranks", ranks);
  std::vector<char*> argv;
  arguments.insert(arguments.begin(), "program");
  for (auto& argument : arguments) argv.push_back(argument.data());
  try {
    app.parse(static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::ParseError&) {
    return examples::about_unknown_options(app);
  }
  return "";
}

}  // namespace

TEST_SUITE("examples/unknown_options") {
  TEST_CASE("a misspelt option is told the one that was meant, in either form, and where a required one is missing for it") {
    CHECK(about({"--schema", "a.toml", "--rank", "2"}) == "--rank is no option; did you mean '--ranks'?\n");
    CHECK(about({"--schema", "a.toml", "--rank=2"}) == "--rank is no option; did you mean '--ranks'?\n");
    CHECK(about({"--schma", "a.toml"}) == "--schma is no option; did you mean '--schema'?\n");
    CHECK(about({"--schema", "a.toml", "--epochs", "3"}) == "--epochs is no option; there are [--help, --schema, --ranks]\n");
    CHECK(about({"--ranks", "2"}) == "");
    CHECK(about({"--schema", "a.toml"}) == "");
  }
}
