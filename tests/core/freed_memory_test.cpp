// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/freed_memory.hpp>

#include <sys/resource.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

/// Pages that one pass over freshly allocated blocks, freed afterwards, makes the system find.
long pages_of_a_step() {
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  const auto before = faults();
  {
    std::vector<std::unique_ptr<char, void (*)(void*)>> blocks;
    for (int i = 0; i < 16; ++i) {
      blocks.emplace_back(static_cast<char*>(std::malloc(4 << 20)), &std::free);
      std::memset(blocks.back().get(), i, 4 << 20);
    }
  }
  return faults() - before;
}

}  // namespace

TEST_SUITE("core/freed_memory") {
  TEST_CASE("what a step frees is there for the next one, without the system") {
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
    keep_freed_memory();
    pages_of_a_step();
    if (std::getenv("MALLOC_TRIM_THRESHOLD_") || std::getenv("GLIBC_TUNABLES")) return;  // somebody else has decided
    CHECK(pages_of_a_step() < 100);                            // of 16384
#endif
  }
}

}  // namespace rookery
