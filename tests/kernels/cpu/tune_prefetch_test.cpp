// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/kernels/cpu/tune_prefetch.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("kernels/cpu/tune_prefetch") {
  TEST_CASE("small tables change nothing; the first large one chooses a distance, and no other after it") {
    auto& policy = kernels::prefetch_policy();
    const auto before = policy;
    policy.bytes = 12345;
    std::vector<float> table(std::size_t{16} << 20);         // 64 MB
    kernels::tune_prefetch(at::kFloat, table.data(), 1000, 64, 64);
    CHECK(policy.bytes == 12345);
    kernels::tune_prefetch(at::kFloat, table.data(), 1 << 18, 64, 64);
    CHECK(std::count(kernels::prefetch_distances.begin(), kernels::prefetch_distances.end(), policy.bytes) == 1);
    policy.bytes = 12345;
    kernels::tune_prefetch(at::kFloat, table.data(), 1 << 18, 64, 64);
    CHECK(policy.bytes == 12345);
    policy = before;
  }
}

}  // namespace rookery
