// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Tables on a device: one process there equals one process on the host, for random models, rules and batches.
#include <rookery/sharding/device_gradients.hpp>
#include <rookery/sharding/device_sums.hpp>
#include <rookery/sharding/device_values.hpp>

#include <cstdint>
#include <string>

#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>

#include "support/equivalence.hpp"
#include "support/fake_device.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("sharding/device_values") {
  TEST_CASE("one process with its model on a device equals one on the host, for every lookup and rule") {
    for (const auto dtype : {at::kDouble, at::kFloat})
      for (std::uint64_t seed = 1; seed <= 30; ++seed) {
        CAPTURE(seed);
        const auto trial = draw_trial(seed, 1, dtype);
        const auto rounds = draw_rounds(trial);
        Local there(fake_device);
        CHECK(compare(trial, train_locally(trial, rounds), train(there, trial.placement, trial, rounds)) == "");
      }
  }
}

}  // namespace rookery
