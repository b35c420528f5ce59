// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: two lookups have the same key

#include "compile_fail/pieces.hpp"

struct Model {
  Tables tables, other;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Batch& b) const {
#ifdef EXPECT_FAIL
    return rk::lookups(rk::lookup<&Model::tables>(b.ids), rk::lookup<&Model::tables>(b.ids));
#else
    return rk::lookups(rk::lookup<&Model::tables>(b.ids), rk::lookup<&Model::tables, "again">(b.ids));
#endif
  }
  Output forward(const Batch&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
int main() { placed<Model, Sum, Batch>(); }
