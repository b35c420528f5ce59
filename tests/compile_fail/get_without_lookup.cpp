// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: this key is not among the model.s lookups

#include "compile_fail/pieces.hpp"

struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Batch& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Output forward(const Batch&, const auto& pooled) {
#ifdef EXPECT_FAIL
    return {get<&Model::tables, "negatives">(pooled).values()};
#else
    return {get<&Model::tables>(pooled).values()};
#endif
  }
};
int main() { placed<Model, Sum, Batch>().predict({}); }
