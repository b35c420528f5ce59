// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/per_parameter.hpp>

#include <rookery/log/reducers.hpp>

#include "support/test.hpp"

namespace rookery {

namespace {

using Norms = detail::LogRules<PerParameter<For<"*.bias", MaxAbs>, For<"over.*", L2Norm>, For<"*", MeanRowNorm>>>;
using Some = detail::LogRules<PerParameter<For<"over.weight", L1Norm>>>;

static_assert(Norms::match("over.layers.0.bias") == 0 && Norms::match("over.layers.0.weight") == 1 && Norms::match("user.x.weight") == 2);
static_assert(Some::match("over.weight") == 0 && Some::match("over.weights") == Some::none &&
              Some::match("user.over.weight") == Some::none);
static_assert(detail::LogRules<PerParameter<>>::match("anything") == detail::LogRules<PerParameter<>>::none);
static_assert(detail::LogRules<L2Norm>::match("anything") == 0);
static_assert(std::is_empty_v<PerParameter<For<"*", L2Norm>>>);

/// Every way to let stars take text, tried in turn.
bool slowly(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern.front() == '*') return slowly(pattern.substr(1), name) || (!name.empty() && slowly(pattern, name.substr(1)));
  return !name.empty() && pattern.front() == name.front() && slowly(pattern.substr(1), name.substr(1));
}

}  // namespace

TEST_SUITE("log/per_parameter") {
  TEST_CASE("stars match any text, dots and nothing included") {
    CHECK(matches_pattern("*", ""));
    CHECK(matches_pattern("**", "a.b"));
    CHECK(matches_pattern("a*", "a"));
    CHECK(matches_pattern("user.*.weight", "user.embedding_bags.user_id.weight"));
    CHECK(matches_pattern("*bias", "bias.bias"));
    CHECK_FALSE(matches_pattern("*.bias", "bias"));
    CHECK_FALSE(matches_pattern("", "a"));
    CHECK_FALSE(matches_pattern("a*b", "a"));
  }
  TEST_CASE("patterns of up to four letters against all names of up to five") {
    const auto words = [](std::string_view letters, std::size_t longest) {
      std::vector<std::string> all{""};
      for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i].size() < longest)
          for (const char c : letters) all.push_back(all[i] + c);
      return all;
    };
    int wrong = 0;
    for (const auto& pattern : words("ab*", 4))
      for (const auto& name : words("ab", 5)) wrong += matches_pattern(pattern, name) != slowly(pattern, name);
    CHECK(wrong == 0);
  }
  TEST_CASE("a rule's reducer is found by its number") {
    std::string names;
    for (const auto* reducer : Norms::reducers()) names += concat(reducer->name, " ");
    CHECK(names == "max_abs norm mean_row_norm ");
  }
}

}  // namespace rookery
