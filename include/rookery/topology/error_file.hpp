// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The file in which torchrun looks for why a rank failed (TORCHELASTIC_ERROR_FILE).  Include cost: none.

#include <ctime>
#include <fstream>
#include <string>
#include <string_view>

namespace rookery::detail {

/// Leaves `message`, one line, where torchrun reads it. Does nothing without a path; a file that cannot be written is not an error.
inline void write_error_file(const std::string& path, std::string_view message) {
  if (path.empty()) return;
  std::string escaped;
  for (const char c : message) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  std::ofstream(path) << R"({"message":{"message":")" << escaped << R"(","extraInfo":{"py_callstack":")" << escaped << R"(","timestamp":")"
                      << std::time(nullptr) << "\"}}}\n";
}

}  // namespace rookery::detail
