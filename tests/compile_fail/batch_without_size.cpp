// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: write `std::int64_t size\(\) const` on Batch

#include "compile_fail/pieces.hpp"

struct Clicks {
  rk::KeyedJaggedTensor ids;
#ifndef EXPECT_FAIL
  std::int64_t size() const { return ids.stride(); }
#endif
};
struct Model {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Model::tables); }
  auto lookups(const Clicks& b) const { return rk::lookups(rk::lookup<&Model::tables>(b.ids)); }
  Output forward(const Clicks&, const auto& pooled) { return {get<&Model::tables>(pooled).values()}; }
};
struct Loss {
  at::Tensor operator()(const Output& output, const Clicks&) const { return output.values.sum(); }
  at::Tensor normaliser(const Clicks& batch) const { return batch.ids.values().sum(); }
};
int main() { placed<Model, Loss, Clicks>(); }
