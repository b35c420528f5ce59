// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What tests compare with in Python: scripts beside the tests, run by the interpreter that tests/setup prepares.

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery::cases {

/// Whether there is one; tests/setup says why there is none.
inline bool has_python() {
  const char* python = std::getenv("ROOKERY_PYTHON");
  return python != nullptr && *python != '\0';
}

/// Runs `tests/<script>` with these arguments and gives what it prints. Errors: Error when it fails.
inline std::string run_python(std::string_view script, const std::vector<std::string>& arguments) {
  std::string command = concat("'", std::getenv("ROOKERY_PYTHON"), "' '", ROOKERY_SOURCE_DIR, "/tests/", script, "'");
  for (const auto& argument : arguments) command += concat(" '", argument, "'");
  std::FILE* pipe = popen(command.c_str(), "r");
  check<Error>(pipe != nullptr, "cannot run ", command);
  std::string output;
  char part[4096];
  while (const auto got = std::fread(part, 1, sizeof part, pipe)) output.append(part, got);
  const int status = pclose(pipe);
  check<Error>(status == 0, command, " ended with status ", WEXITSTATUS(status));
  return output;
}

}  // namespace rookery::cases
