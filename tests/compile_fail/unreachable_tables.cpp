// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a collection lies in a vector, array or optional of Model

#include "compile_fail/pieces.hpp"

struct Model {
  Tables tables;
#ifdef EXPECT_FAIL
  std::vector<Tables> towers;
#else
  Tables towers;
#endif
  static constexpr auto members() { return rk::members("tables", &Model::tables, "towers", &Model::towers); }
  auto lookups(const Batch& b) const {
#ifdef EXPECT_FAIL
    return rk::lookups(rk::lookup<&Model::tables>(b.ids));
#else
    return rk::lookups(rk::lookup<&Model::tables>(b.ids), rk::lookup<&Model::towers>(b.ids));
#endif
  }
  Output forward(const Batch&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
int main() { placed<Model, Sum, Batch>(); }
