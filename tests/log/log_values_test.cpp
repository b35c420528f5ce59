// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/log_values.hpp>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("log/log_values") {
  TEST_CASE("values keep their order and are found by name") {
    LogValues values{{"a", 1}, {"b", 2}};
    values.add("c", 3);
    values.add(LogValues{{"d", 4}});
    CHECK(values.size() == 4);
    CHECK(values.at("d") == 4);
    CHECK(values.begin()->name == "a");
    CHECK_FALSE(values.contains("e"));
    CHECK_THROWS_WITH_AS(values.at("e"), "LogValues: no value 'e' among 4", IndexError);
  }
}

}  // namespace rookery
