// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `at::Tensor operator\(\)\(const Output&, const Batch&\) const` on Loss

// The whole design program, with one mistake.

#ifdef EXPECT_FAIL
#define MISTAKE_WRONG_LOSS
#endif

#include "compile_cost/design_program.cpp"
