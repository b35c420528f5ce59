// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A program of somebody else: it builds with what the library's description says, and nothing more.

#include <rookery/core/error.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

#include <cstdio>

int main() {
  try {
    rookery::check<rookery::ShapeError>(1 + 1 == 3, "consumer: ", 1 + 1, " is not ", 3);
  } catch (const rookery::Error& error) {
    std::printf("%s\n", error.what());
    return 0;
  }
  return 1;
}
