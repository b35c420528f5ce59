// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Checks of a program that tests/device/run starts, on a machine that has no doctest. Each is one line of JSON on stdout as soon as it is
// done, after a line with the names of all, so that those that a crash swallows are missed.

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/one_line.hpp>

namespace rookery::device {

/// What a check measured, by name; units are in the names.
using Figures = std::vector<std::pair<std::string, double>>;

/// Thrown by a check that this machine cannot make, with the reason.
struct NotRun {
  std::string why;
};

inline std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return out + '"';
}

class Checks {
 public:
  /// `run(figures)` gives what is wrong, empty where nothing is.
  void add(std::string name, std::function<std::string(Figures&)> run) { all_.push_back({std::move(name), std::move(run)}); }

  /// Makes all; `speaks` is one of the ranks that make them. Gives the status for the shell: 0 where none failed here.
  int run(bool speaks = true) const {
    std::string names;
    for (const auto& one : all_) names += concat(names.empty() ? "" : ", ", json_text(one.name));
    if (speaks) say(concat("{\"plan\": [", names, "]}"));
    int failed = 0;
    for (const auto& one : all_) {
      const Stopwatch clock;
      Figures figures;
      std::string_view result = "passed";
      std::string said;
      try {
        said = one.run(figures);
        if (!said.empty()) result = "failed";
      } catch (const NotRun& reason) {
        result = "not run";
        said = reason.why;
      } catch (const std::exception& error) {
        result = "failed";
        said = one_line(error);
      }
      failed += result == "failed";
      std::string measured;
      for (const auto& [name, value] : figures)
        measured += concat(measured.empty() ? "" : ", ", json_text(name), ": ", std::isfinite(value) ? concat(value) : "null");
      if (speaks)
        say(concat("{\"check\": ", json_text(one.name), ", \"result\": \"", result, "\", \"seconds\": ", clock.seconds(), ", \"said\": ",
                   json_text(said), ", \"figures\": {", measured, "}}"));
      else if (result == "failed") std::fprintf(stderr, "%s: %s\n", one.name.c_str(), said.c_str());
    }
    return failed == 0 ? 0 : 1;
  }

 private:
  static void say(const std::string& line) {
    std::puts(line.c_str());
    std::fflush(stdout);
  }
  struct One {
    std::string name;
    std::function<std::string(Figures&)> run;
  };
  std::vector<One> all_;
};

}  // namespace rookery::device
