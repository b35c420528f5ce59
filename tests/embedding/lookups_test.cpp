// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/embedding/lookups.hpp>

#include <ATen/ops/ones.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Tower {
  Collection tables;
  static constexpr auto members() { return rookery::members("tables", &Tower::tables); }
};
struct Model {
  Collection user, item;
  Tower query;
  int notes = 0;
  Collection unlisted;
  static constexpr auto members() {
    return rookery::members("user", &Model::user, "item", &Model::item, "query", &Model::query, "notes", &Model::notes);
  }
};
struct Fleet {
  std::vector<Tower> towers;
  static constexpr auto members() { return rookery::members("towers", &Fleet::towers); }
};
struct Maybe {
  std::optional<Collection> tables;
  static constexpr auto members() { return rookery::members("tables", &Maybe::tables); }
};
struct Dense {
  int weight = 0;
  static constexpr auto members() { return rookery::members("weight", &Dense::weight); }
};

using User = Key<&Model::user>;
using Item = Key<&Model::item>;
using Negatives = Key<&Model::item, "negatives">;
using Query = Key<&Model::query, &Tower::tables>;

template <class M, class... K> constexpr detail::KeyFaults faults = detail::CheckKeys<M, Lookups<K...>>::faults();
constexpr bool right(detail::KeyFaults found) { return !found.repeated && !found.foreign && !found.forgotten && !found.unreachable; }

static_assert(EmbeddingTables<Collection> && !EmbeddingTables<Tower> && !EmbeddingTables<int>);
static_assert(right(faults<Model, User, Item, Query>), "in the order of members");
static_assert(right(faults<Model, Query, Item, User>), "in any order");
static_assert(right(faults<Model, User, Item, Negatives, Query>), "one collection twice under two names");
static_assert(right(faults<Dense>), "no tables, no lookups");
static_assert(faults<Model, User, Item, Query, User>.repeated);
static_assert(faults<Model, User, Negatives, Negatives, Query>.repeated && !faults<Model, User, Negatives, Negatives, Query>.forgotten);
static_assert(faults<Model, User, Query>.forgotten && !faults<Model, User, Query>.foreign);
static_assert(faults<Model, User, Item>.forgotten, "a nested collection counts");
static_assert(faults<Model>.forgotten);
static_assert(faults<Model, User, Item, Query, Key<&Model::unlisted>>.foreign &&
              !faults<Model, User, Item, Query, Key<&Model::unlisted>>.forgotten);
static_assert(faults<Model, User, Item, Query, Key<&Model::notes>>.foreign, "a member that is no collection");
static_assert(faults<Model, User, Item, Query, Key<&Model::query>>.foreign, "a path that stops too early");
static_assert(faults<Dense, Key<&Dense::weight>>.foreign);
static_assert(faults<Fleet>.unreachable && faults<Maybe>.unreachable, "no key leads into a vector or an optional");

KeyedTensor one_column(double value) { return {std::make_shared<KeyedColumns>(KeyedColumns{{"f"}, {1}}), at::ones({1, 1}).mul(value)}; }

}  // namespace

TEST_SUITE("embedding/lookups") {
  TEST_CASE("lookups keep their features in the order they are given") {
    const auto all =
        lookups(lookup<&Model::item>(features_of({"i"}, {{1}, {2}})), lookup<&Model::item, "negatives">(features_of({"n"}, {{3}, {4, 5}})));
    static_assert(std::is_same_v<std::remove_const_t<decltype(all)>, Lookups<Item, Negatives>>);
    REQUIRE(all.features.size() == 2);
    CHECK(all.features[0].keys() == std::vector<std::string>{"i"});
    CHECK(all.features[1].values().numel() == 3);
  }
  TEST_CASE("get finds what came back by its key") {
    const Pooled<Item, Negatives, Query> pooled{{one_column(1), one_column(2), one_column(3)}};
    CHECK(get<&Model::item>(pooled).values().item<double>() == 1);
    CHECK(get<&Model::item, "negatives">(pooled).values().item<double>() == 2);
    CHECK(get<&Model::query, &Tower::tables>(pooled).values().item<double>() == 3);
  }
}

}  // namespace rookery
