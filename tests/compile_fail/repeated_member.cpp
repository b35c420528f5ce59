// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: two members have the same name

#include "compile_fail/pieces.hpp"

struct Model {
  rk::Parameter scale, shift;
#ifdef EXPECT_FAIL
  static constexpr auto members() { return rk::members("scale", &Model::scale, "scale", &Model::shift); }
#else
  static constexpr auto members() { return rk::members("scale", &Model::scale, "shift", &Model::shift); }
#endif
  Output forward(const Batch&) { return {scale.tensor().add(shift)}; }
};
int main() { placed<Model, Sum, Batch>(); }
