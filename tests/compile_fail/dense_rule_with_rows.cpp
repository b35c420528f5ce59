// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a dense parameter has no rows; use Sgd, Adagrad or Adam

#include <rookery/optim/optimizer.hpp>

#include "compile_fail/pieces.hpp"

struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Batch& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Output forward(const Batch&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
#ifdef EXPECT_FAIL
using Rule = rk::RowwiseAdagrad;
#else
using Rule = rk::Sgd;
#endif
int main() {
  auto model = placed<Model, Sum, Batch>();
  rk::Optimizer step{model, Rule{}};
}
