// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Several passes before a step are one larger batch.

#include <rookery/optim/optimizer.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rk = rookery;
namespace cases = rookery::cases;

namespace {

/// Cuts each round's batch into `passes` rounds.
std::vector<cases::Round> cut_up(const cases::Trial& trial, const std::vector<cases::Round>& rounds, std::int64_t passes) {
  std::vector<cases::Round> parts;
  for (const auto& round : rounds)
    for (std::int64_t p = 0; p < passes; ++p) {
      const auto begin = round.batch.size() * p / passes, end = round.batch.size() * (p + 1) / passes;
      parts.push_back({rk::slice(round.batch, begin, end), {}});
      for (int rank = 0; rank <= trial.ranks; ++rank) parts.back().cuts.push_back((end - begin) * rank / trial.ranks);
    }
  return parts;
}
/// Weights and state, without what each pass left.
cases::Tensors final_tensors(const cases::Tensors& all) {
  cases::Tensors kept;
  for (const auto& one : all)
    if (one.first.find(" of ") == std::string::npos) kept.push_back(one);
  return kept;
}

}  // namespace

TEST_SUITE("optim/accumulation") {
  TEST_CASE("k passes equal one batch k times as large, for k = 1, 2, 3, 4, on Local and on threads") {
    for (const std::uint64_t seed : {11, 12, 13, 14, 15, 16})
      for (const int ranks : {1, 2, 3}) {
        auto trial = cases::draw_trial(seed, ranks);
        trial.passes = 1;
        trial.unreached = 0;                                   // a pass that reaches nothing differs from rows that reach nothing
        trial.largest_batch = 30;
        trial.sample_weights = seed % 2 == 0 ? cases::SampleWeights::given : cases::SampleWeights::learned;
        const auto rounds = cases::draw_rounds(trial);
        const auto whole = final_tensors(cases::train_locally(trial, rounds));
        REQUIRE(whole.size() > 4);
        for (const std::int64_t passes : {1, 2, 3, 4}) {
          trial.passes = passes;
          CHECK(cases::compare(trial, whole, final_tensors(cases::train_sharded(trial, cut_up(trial, rounds, passes)))) == "");
        }
      }
  }
}
