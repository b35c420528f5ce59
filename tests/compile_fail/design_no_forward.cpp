// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `Output forward\(const Batch&, const auto& pooled\)` on Model

// The whole design program, with one mistake.

#ifdef EXPECT_FAIL
#define MISTAKE_NO_FORWARD
#endif

#include "compile_cost/design_program.cpp"
