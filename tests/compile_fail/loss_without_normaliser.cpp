// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `at::Tensor normaliser\(const Batch&\) const` on Loss

#include "compile_fail/pieces.hpp"

struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Batch& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Output forward(const Batch&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
struct Loss {
  at::Tensor operator()(const Output& output, const Batch&) const { return output.values.sum(); }
#ifndef EXPECT_FAIL
  at::Tensor normaliser(const Batch& batch) const { return batch.ids.values().sum(); }
#endif
};
int main() { placed<Model, Loss, Batch>(); }
