// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a distributed topology needs all verbs

#include <rookery/comm/all_reduce.hpp>

#include "compile_fail/pieces.hpp"

#ifdef EXPECT_FAIL
struct Half : rk::Local {
  static constexpr bool is_distributed = true;
};
#else
using Half = rk::Local;
#endif
int main() {
  Half topology;
  (void)rk::all_reduce(topology, at::Tensor{});
}
