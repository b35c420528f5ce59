// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The fuzzers' corpora and a few thousand inputs made of them; `tests/run fuzz` goes on for longer.

#include <string>

#include "fuzz/targets.hpp"
#include "support/test.hpp"

TEST_SUITE("fuzz/replay") {
  TEST_CASE("parsers take or refuse each input of their corpora and 4,000 mutated ones, and obey their laws") {
    for (const auto& target : rookery::cases::fuzz_targets) {
      rookery::cases::Mutations mutations(std::string(ROOKERY_SOURCE_DIR "/tests/fuzz/corpus/") + std::string(target.name), 2);
      for (const auto& text : mutations.corpus()) {
        CAPTURE(target.name);
        CAPTURE(text);
        CHECK(target.run(text) == "");
      }
      for (int i = 0; i < 4000; ++i) {
        const auto text = mutations.next();
        CAPTURE(target.name);
        CAPTURE(text);
        CHECK(target.run(text) == "");
      }
    }
  }
}
