// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What CLI11 does not say of a misspelt option: the one that was meant.

#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/suggest.hpp>

namespace examples {

/// A line for each option that a CLI::App was given and does not have, with the nearest one that it has.
template <class App> std::string about_unknown_options(const App& app) {
  std::vector<std::string> names;
  for (const auto* option : app.get_options()) names.push_back(option->get_name());
  std::string lines;
  for (const auto& given : app.remaining()) {
    const auto name = given.substr(0, given.find('='));
    if (name.starts_with("--")) lines += rookery::concat(name, " is no option", rookery::suggestion(name, names), "\n");
  }
  return lines;
}

}  // namespace examples
