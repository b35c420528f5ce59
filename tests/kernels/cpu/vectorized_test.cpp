// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/kernels/cpu/vectorized.hpp>

#include "support/test.hpp"

namespace rookery {

TEST_SUITE("kernels/cpu/vectorized") {
  TEST_CASE("wide vectors give the bits of the plain loop, for any length and place") {
    for (std::int64_t size = 0; size < 70; ++size)
      for (std::int64_t first = 0; first < 3; ++first) {
        std::vector<float> x, plain, wide;
        for (std::int64_t i = 0; i < first + size; ++i) {
          x.push_back(static_cast<float>(mix64(static_cast<std::uint64_t>(i + size))) * 1e-19F);
          plain.push_back(static_cast<float>(i) / 3);
        }
        wide = plain;
        const auto add = [&](std::vector<float>& out) {
          return [&](std::int64_t begin, std::int64_t end) {
            for (auto i = begin; i < end; ++i) out[static_cast<std::size_t>(i)] += .3F * x[static_cast<std::size_t>(i)];
          };
        };
        const auto in_plain = add(plain), in_wide = add(wide);
        in_plain(first, first + size);
        if (kernels::detail::has_avx2()) kernels::detail::call_for_avx2(in_wide, first, first + size);
        else in_wide(first, first + size);
        CHECK(plain == wide);
      }
  }

  TEST_CASE("every element is in one piece, whatever the number type, and an exception comes back") {
    const auto check_pieces = [](auto zero) {
      std::vector<std::atomic<int>> seen(1000);
      kernels::parallel_vectorized<decltype(zero)>(1000, 10, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (const auto& times : seen) CHECK(times == 1);
    };
    check_pieces(float{});
    check_pieces(double{});
    CHECK_THROWS_AS(kernels::parallel_vectorized<float>(1000, 10, [](std::int64_t, std::int64_t) { throw std::runtime_error("bad"); }),
                    std::runtime_error);
  }
}

}  // namespace rookery
