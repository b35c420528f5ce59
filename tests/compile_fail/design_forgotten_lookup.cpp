// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a collection in `members\(\)` of Model is never looked up

// The whole design program, with one mistake.

#ifdef EXPECT_FAIL
#define MISTAKE_FORGOTTEN_LOOKUP
#endif

#include "compile_cost/design_program.cpp"
