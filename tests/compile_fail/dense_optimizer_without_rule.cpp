// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: Optimizer: the dense optimizer must be a rule, such as Sgd, Adagrad or Adam
// expect-error: docs/concepts.md#rule

#include <rookery/optim/optimizer.hpp>

#include "compile_fail/pieces.hpp"

#ifdef EXPECT_FAIL
using Rule = double;
#else
using Rule = rk::Sgd;
#endif
int main() {
  auto model = placed<Fitting, Sum, Batch>();
  rk::Optimizer step{model, Rule{}};
  step();
}
