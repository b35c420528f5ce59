// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `static constexpr auto members\(\)` on Model

#include "compile_fail/pieces.hpp"

struct Model {
#ifndef EXPECT_FAIL
  static constexpr auto members() { return rk::members(); }
#endif
  Output forward(const Batch& b) { return {b.ids.values()}; }
};
int main() { placed<Model, Sum, Batch>(); }
