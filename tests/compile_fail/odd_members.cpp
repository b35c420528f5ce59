// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write names and member pointers in turn

#include "compile_fail/pieces.hpp"

struct Members {
  int a = 0, b = 0;
#ifdef EXPECT_FAIL
  static constexpr auto members() { return rk::members("a", &Members::a, "b"); }
#else
  static constexpr auto members() { return rk::members("a", &Members::a, "b", &Members::b); }
#endif
};
int main() { (void)Members::members(); }
