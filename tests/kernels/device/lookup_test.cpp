// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Lookups on a device equal those of the host's kernels: every dtype, weighted or not, of bags without ids and of long ones.
#include <rookery/kernels/device/lookup.hpp>

#include <rookery/kernels/device/upload.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include <rookery/kernels/cpu/pooled_lookup.hpp>

#include "support/fake_device.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

/// What both sides give for the same bags [bags, D].
struct Both {
  at::Tensor host, device;
};
Both looked_up(const at::Tensor& table, const std::vector<std::int64_t>& ids, const std::vector<double>& weights,
               const std::vector<std::int64_t>& offsets) {
  const auto bags = static_cast<std::int64_t>(offsets.size()) - 1;
  auto host = ops::empty({bags, table.size(1)}, compute_dtype(table.scalar_type()));         // [bags, D]
  kernels::LookupTask task{.dtype = table.scalar_type(),
                           .weights = table.const_data_ptr(),
                           .stride = table.stride(0),
                           .dim = table.size(1),
                           .ids = ids.data(),
                           .offsets = offsets.data(),
                           .sample_weights = weights.empty() ? nullptr : weights.data(),
                           .bags = bags,
                           .out = host.mutable_data_ptr(),
                           .out_stride = table.size(1)};
  kernels::look_up(std::span(&task, 1));
  kernels::Upload upload;
  const auto told = kernels::PickedSums::told(upload, ids, weights, offsets);
  upload.send(fake_device);
  device_to_host();
  const auto device = told.of(upload, table.to(fake_device), compute_dtype(table.scalar_type()));                               // [bags, D]
  CHECK(device_to_host() == 0);
  return {host, seen_on_device(device).clone()};
}

}  // namespace

TEST_SUITE("kernels/device/lookup") {
  TEST_CASE("bags of every length, weighted or not, equal those of the host") {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      CAPTURE(seed);
      Draw draw(seed);
      const auto dtype = draw.one_of<at::ScalarType>({at::kFloat, at::kDouble, at::kHalf, at::kBFloat16});
      const auto entries = draw.integer(1, 50), dim = draw.integer(1, 33), stride = dim + draw.integer(0, 2);
      const auto table = draw.tensor({entries, stride}, dtype).narrow(1, 0, dim);            // [E, D]
      const auto longest = draw.one_of<std::int64_t>({1, 5, 70, 400});
      const bool is_weighted = draw.chance(.5), are_single = draw.chance(.2);
      std::vector<std::int64_t> ids, offsets{0};
      std::vector<double> weights;
      const auto bags = draw.integer(0, 20);
      for (std::int64_t b = 0; b < bags; ++b) {
        const auto length = are_single ? 1 : draw.integer(0, longest);
        for (std::int64_t i = 0; i < length; ++i) {
          ids.push_back(draw.integer(0, entries - 1));
          if (is_weighted) weights.push_back(draw.real(-1, 1));
        }
        offsets.push_back(static_cast<std::int64_t>(ids.size()));
      }
      const auto both = looked_up(table, ids, weights, offsets);
      CHECK((both.device.scalar_type() == compute_dtype(dtype)));
      CHECK(difference(both.host, both.device) <= tolerance(compute_dtype(dtype)));
    }
  }

  TEST_CASE("a sum of 100,000 float32 numbers of one sign is as exact as that of 64") {
    const std::vector<std::int64_t> ids(100'000, 0);
    const auto both = looked_up(at::full({1, 3}, .1, at::kFloat), ids, {}, {0, 100'000});
    CHECK(difference(both.device, at::full({1, 3}, 100'000 * static_cast<double>(.1f), at::kDouble)) <= 64 * 0x1p-24);
  }

  TEST_CASE("segments may begin anywhere, and gradients flow through their sums") {
    const std::vector<std::int64_t> offsets{7, 9, 9, 10};
    kernels::Upload upload;
    const kernels::Segments segments(upload, offsets);
    upload.send(fake_device);
    const auto rows = at::arange(6, at::kDouble).view({3, 2}).to(fake_device).set_requires_grad(true);   // [3, 2]
    const auto sums = segments.sum(upload, rows);                                            // [3, 2]
    const auto wanted = at::arange(6, at::kDouble).view({3, 2});                             // [3, 2]
    CHECK(at::equal(seen_on_device(sums)[0], wanted[0] + wanted[1]));
    CHECK(at::equal(seen_on_device(sums)[1], wanted[0] * 0));
    CHECK(at::equal(seen_on_device(sums)[2], wanted[2]));
    sums.mul(sums.detach()).sum().backward();
    CHECK(at::equal(seen_on_device(rows.grad())[0], wanted[0] + wanted[1]));
  }

  TEST_CASE("numbers go to a device in one copy, and are found by what they are") {
    kernels::Upload upload, nothing;
    const auto a = upload.add(std::vector<std::int64_t>{3, -1}), b = upload.add(std::vector<double>{.5});
    const auto c = upload.add(std::vector<std::int64_t>{});
    upload.send(fake_device);
    CHECK(upload.integers(a).device() == fake_device);
    CHECK(upload.integers(a).storage().is_alias_of(upload.reals(b).storage()));
    CHECK(at::equal(seen_on_device(upload.integers(a)), at::arange(2, at::kLong).mul(-4).add(3)));
    CHECK(at::equal(seen_on_device(upload.reals(b)), at::full({1}, .5, at::kDouble)));
    CHECK(upload.integers(c).numel() == 0);
    nothing.send(fake_device);
  }
}

}  // namespace rookery
