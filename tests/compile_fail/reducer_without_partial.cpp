// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `at::Tensor partial\(const at::Tensor& chunk\) const` on the reducer

#include <rookery/log/weight_logger.hpp>

#include "compile_fail/pieces.hpp"

struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Batch& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Output forward(const Batch&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
struct Reducer {
  static constexpr std::string_view name = "mine";
  static constexpr auto input = rk::ReducerInput::elements;
  static constexpr std::int64_t partial_size = 1;
#ifndef EXPECT_FAIL
  at::Tensor partial(const at::Tensor& chunk) const { return chunk.sum(at::kDouble).view({1}); }
#endif
  at::Tensor merge(const at::Tensor& partials) const { return partials.sum(0); }
  double finish(std::span<const double> partial, std::int64_t) const { return partial[0]; }
};
int main() {
  auto model = placed<Model, Sum, Batch>();
  rk::WeightLogger<Reducer> norms{model};
  (void)norms(model);
}
