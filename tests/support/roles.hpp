// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Roles: what a test program does when a test starts it again as one of several processes.

#include <cstdlib>
#include <map>
#include <string>

namespace rookery::cases {

/// Roles by name; each gives the status that the process ends with.
inline std::map<std::string, int (*)()>& roles() {
  static std::map<std::string, int (*)()> all;
  return all;
}

/// The role that the environment names, or null.
inline int (*role_to_play())() {
  const char* name = std::getenv("ROOKERY_TEST_ROLE");
  return name ? roles().at(name) : nullptr;
}

}  // namespace rookery::cases
