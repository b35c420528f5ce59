// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a dense parameter has no rows; use Sgd, Adagrad or Adam

#include <rookery/optim/optimizer.hpp>

#include "compile_fail/pieces.hpp"

#ifdef EXPECT_FAIL
using Rule = rk::RowwiseAdagrad;
#else
using Rule = rk::Sgd;
#endif
int main() {
  auto model = placed<Fitting, Sum, Batch>();
  rk::Optimizer step{model, Rule{}};
}
