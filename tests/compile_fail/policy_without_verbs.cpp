// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: ShardingPolicy: a distributed topology needs all verbs
// expect-error: docs/concepts.md#communicator

#include <rookery/optim/optimizer.hpp>

#include "compile_fail/pieces.hpp"

#ifdef EXPECT_FAIL
struct One : rk::Local {
  static constexpr bool is_distributed = true;
};
#else
using One = rk::Local;
#endif
int main() {
  One one;
  auto model = rk::maybe_shard_model(rk::ModelAndLoss<Fitting, Sum, Batch>{}, one);
  rk::Optimizer step{model, rk::Sgd{}};
  model(Batch{}).loss.backward();
  step();
}
