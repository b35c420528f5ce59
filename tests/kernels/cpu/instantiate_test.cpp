// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// This file declares the kernels only; kernels_test.cpp instantiates them by <rookery/kernels/cpu/instantiate.hpp>.
#define ROOKERY_KERNELS_EXTERN

#include <rookery/kernels/cpu/pooled_lookup.hpp>
#include <rookery/kernels/cpu/transpose.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("kernels/cpu/instantiate") {
  TEST_CASE("a file that declares the kernels links with the one that instantiates them") {
    const std::vector<double> table{1, 2};
    const std::vector<std::int64_t> ids{1, 1, 0}, offsets{0, 3};
    double out = 0;
    const kernels::LookupTask task{.dtype = at::kDouble,
                                   .weights = table.data(),
                                   .stride = 1,
                                   .dim = 1,
                                   .ids = ids.data(),
                                   .offsets = offsets.data(),
                                   .bags = 1,
                                   .out = &out,
                                   .out_stride = 1};
    kernels::look_up(std::span(&task, 1));
    CHECK(out == 5);
    kernels::Occurrences occurrences;
    for (const auto id : ids) occurrences.add(id, table.data(), 2);
    std::vector<double> sums(2);
    kernels::sum_row_gradients(occurrences, kernels::transpose(occurrences.rows), at::kDouble, 1, sums.data());
    CHECK(sums == std::vector<double>{2, 4});
  }
}

}  // namespace rookery
