// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The one main() of every test executable.

#define DOCTEST_CONFIG_IMPLEMENT
#include "support/test.hpp"

#include "support/roles.hpp"

int main(int count, char** arguments) {
  if (const auto role = rookery::cases::role_to_play()) return role();
  return doctest::Context(count, arguments).run();
}
