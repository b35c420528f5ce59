// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/human.hpp>

#include <rookery/core/text.hpp>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("core/human") {
  TEST_CASE("numbers for people") {
    CHECK(human_number(.000123456) == "0.0001235");
    CHECK(human_number(-2.5, 2) == "-2.5");
    CHECK(human_number(1e-9) == "1e-09");
    CHECK(human_bytes(0) == "0 B");
    CHECK(human_bytes(1023) == "1023 B");
    CHECK(human_bytes(1024) == "1 KiB");
    CHECK(human_bytes(1536) == "1.5 KiB");
    CHECK(human_bytes(std::int64_t{3} << 40) == "3 TiB");
    CHECK(human_count(999) == "999");
    CHECK(human_count(81'250) == "81.2k");
    CHECK(human_count(1.5e9) == "1.5G");
    CHECK(human_duration(7.4) == "0:07");
    CHECK(human_duration(59.6) == "1:00");
    CHECK(human_duration(3723) == "1:02:03");
    CHECK(human_duration(std::nan("")) == "-");
    CHECK(human_duration(HUGE_VAL) == "-");
  }
  TEST_CASE("columns of text") {
    CHECK(aligned({{"table", "rows", "bytes"}, {"user_id", "943", "1 KiB"}, {"note"}}) ==
          "table    rows  bytes\nuser_id   943  1 KiB\nnote\n");
    CHECK(aligned({}).empty());
  }
  TEST_CASE("fmt is one include away") { CHECK(fmt::format("{:>6.2f}|{}", 3.14159, human_bytes(2048)) == "  3.14|2 KiB"); }
}

}  // namespace rookery
