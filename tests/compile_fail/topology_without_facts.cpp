// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: ShardingPolicy: a topology needs `is_distributed`, `name`, `rank\(\)`, `world_size\(\)` and `device\(\)`
// expect-error: docs/concepts.md#topology

#include <rookery/optim/optimizer.hpp>

#include "compile_fail/pieces.hpp"

struct One {
#ifndef EXPECT_FAIL
  static constexpr bool is_distributed = false;
#endif
  static constexpr std::string_view name = "one";
  int rank() const { return 0; }
  int world_size() const { return 1; }
  c10::Device device() const { return c10::Device(c10::DeviceType::CPU); }
};
int main() {
  One one;
  auto model = rk::maybe_shard_model(rk::ModelAndLoss<Fitting, Sum, Batch>{}, one);
  rk::Optimizer step{model, rk::Sgd{}};
  model(Batch{}).loss.backward();
  step();
}
