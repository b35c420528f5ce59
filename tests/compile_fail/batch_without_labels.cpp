// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `at::Tensor labels` on Batch, and `at::Tensor weights` where rows have them; see docs/concepts.md#loss

#include <rookery/loss/bce.hpp>

#include "compile_fail/pieces.hpp"

struct Scores {
  at::Tensor logits;
};
struct Clicks {
  rk::KeyedJaggedTensor ids;
#ifndef EXPECT_FAIL
  at::Tensor labels;
#endif
  std::int64_t size() const { return ids.stride(); }
};
struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Clicks& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Scores forward(const Clicks&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
int main() { placed<Model, rk::Bce, Clicks>()(Clicks{}); }
