// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `at::Tensor logits` on what `forward` of Model gives; see docs/concepts.md#loss

#include <rookery/loss/bce.hpp>

#include "compile_fail/pieces.hpp"

struct Scores {
#ifdef EXPECT_FAIL
  at::Tensor scores;
#else
  at::Tensor logits;
#endif
};
struct Clicks {
  rk::KeyedJaggedTensor ids;
  at::Tensor labels;
  std::int64_t size() const { return ids.stride(); }
};
struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Clicks& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Scores forward(const Clicks&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
int main() { placed<Model, rk::Bce, Clicks>()(Clicks{}); }
