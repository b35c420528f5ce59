// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// errors_of: what a function writes to stderr.

#include <unistd.h>

#include <cstdio>
#include <string>

namespace rookery::cases {

/// What `fn` writes to stderr.
template <class Fn> std::string errors_of(Fn&& fn) {
  std::FILE* file = std::tmpfile();
  const int before = ::dup(STDERR_FILENO);
  ::dup2(::fileno(file), STDERR_FILENO);
  fn();
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  std::string text;
  std::rewind(file);
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  std::fclose(file);
  return text;
}

}  // namespace rookery::cases
