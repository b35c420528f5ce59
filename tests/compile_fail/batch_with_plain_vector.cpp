// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a vector or array of numbers or texts in members\(\) of Batch would stay whole beside the rows

#include <cstdint>
#include <vector>

#include <rookery/sparse/batch.hpp>

namespace rk = rookery;

struct Side {
  std::vector<std::int64_t> users;
#ifdef EXPECT_FAIL
  static constexpr auto members() { return rk::members("users", &Side::users); }
#else
  static constexpr auto members() { return rk::members(); }
#endif
};
struct Clicks {
  at::Tensor labels;                                         // [B]
  Side side;
  int day = 0;
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() { return rk::members("labels", &Clicks::labels, "side", &Clicks::side, "day", &Clicks::day); }
};
int main() { return static_cast<int>(rk::slice(Clicks{}, 0, 0).size()); }
