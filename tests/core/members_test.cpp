// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/members.hpp>

#include <rookery/core/key.hpp>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

struct Layer {
  int weight = 0, bias = 0;
  static constexpr auto members() { return rookery::members("weight", &Layer::weight, "bias", &Layer::bias); }
};
struct Tower {
  std::vector<Layer> layers{};
  int unlisted = -1;
  static constexpr auto members() { return rookery::members("layers", &Tower::layers); }
};
struct Model {
  Tower query{};
  std::array<int, 2> pair{};
  std::optional<Layer> extra{};
  std::vector<std::optional<std::array<Layer, 1>>> deep{};
  double scale = 0;
  static constexpr auto members() {
    return rookery::members("query", &Model::query, "pair", &Model::pair, "extra", &Model::extra, "deep", &Model::deep, "scale",
                            &Model::scale);
  }
};
struct Empty {
  static constexpr auto members() { return rookery::members(); }
};

struct NamedAtRunTime {
  std::vector<Named<Layer>> layers;
  std::vector<Named<int>> numbers;
  static constexpr auto members() { return rookery::members("", &NamedAtRunTime::layers, "", &NamedAtRunTime::numbers); }
};

static_assert(HasMembers<Model> && HasMembers<const Model&> && HasMembers<Empty>);
static_assert(!HasMembers<int> && !HasMembers<std::vector<Layer>>);

template <class Object> std::vector<std::string> leaf_names(Object& object, std::string_view path = "") {
  std::vector<std::string> names;
  visit_leaves(object, path, [&](std::string_view name, auto&) { names.emplace_back(name); });
  return names;
}
using Names = std::vector<std::string>;

}  // namespace

TEST_SUITE("core/members") {
  TEST_CASE("leaves are named by member and index, in the order of declaration") {
    Model model{.query = {{Layer{}, Layer{}}}, .extra = Layer{}};
    model.deep.resize(3);
    model.deep[1].emplace();
    CHECK(leaf_names(model) == Names{"query.layers.0.weight", "query.layers.0.bias", "query.layers.1.weight", "query.layers.1.bias",
                                     "pair.0", "pair.1", "extra.weight", "extra.bias", "deep.1.0.weight", "deep.1.0.bias", "scale"});
  }
  TEST_CASE("an optional without value, an empty vector and unlisted members have no leaves") {
    Model model;
    CHECK(leaf_names(model) == Names{"pair.0", "pair.1", "scale"});
    Empty empty;
    CHECK(leaf_names(empty).empty());
  }
  TEST_CASE("Named elements of a sequence bring their names, and what has an empty name is called as its owner is") {
    const NamedAtRunTime model{{{"a.b", {1, 2}}, {"c", {3, 4}}}, {{"d", 5}}};
    CHECK(leaf_names(model, "over") == Names{"over.a.b.weight", "over.a.b.bias", "over.c.weight", "over.c.bias", "over.d"});
  }
  TEST_CASE("a prefix goes in front, and a leaf alone is its prefix") {
    const Layer layer;
    CHECK(leaf_names(layer, "over") == Names{"over.weight", "over.bias"});
    int leaf = 0;
    CHECK(leaf_names(leaf, "alone") == Names{"alone"});
    CHECK(leaf_names(leaf) == Names{""});
  }
  TEST_CASE("leaves are the members themselves: they can be written, and const stays const") {
    Model model{.query = {{Layer{.weight = 1, .bias = 2}}}};
    visit_leaves(model, "", [](std::string_view, auto& leaf) { leaf += 10; });
    CHECK(model.query.layers[0].weight == 11);
    CHECK(model.query.layers[0].bias == 12);
    CHECK(model.scale == 10);
    CHECK(model.query.unlisted == -1);
    visit_leaves(std::as_const(model), "",
                 [](std::string_view, auto& leaf) { static_assert(std::is_const_v<std::remove_reference_t<decltype(leaf)>>); });
  }
  TEST_CASE("for_each_member stops at the first level") {
    Model model;
    Names names;
    for_each_member(model, [&](std::string_view name, auto&) { names.emplace_back(name); });
    CHECK(names == Names{"query", "pair", "extra", "deep", "scale"});
  }
}

TEST_SUITE("core/key") {
  TEST_CASE("a key leads along member pointers to the member itself") {
    Model model{.query = {{Layer{.weight = 5}}}};
    CHECK(&Key<&Model::query, &Tower::layers>::resolve(model) == &model.query.layers);
    CHECK(&Key<&Model::scale>::resolve(model) == &model.scale);
    CHECK(&Key<&Model::scale, "a name">::resolve(model) == &model.scale);
    static_assert(std::is_same_v<decltype(Key<&Model::scale>::resolve(std::as_const(model))), const double&>);
  }
  TEST_CASE("two keys are one type only with the same path and name") {
    static_assert(std::is_same_v<Key<&Model::scale>, Key<&Model::scale>>);
    static_assert(!std::is_same_v<Key<&Layer::weight>, Key<&Layer::bias>>);
    static_assert(std::is_same_v<Key<&Model::scale, "a">, Key<&Model::scale, "a">>);
    static_assert(!std::is_same_v<Key<&Model::scale, "a">, Key<&Model::scale, "b">>);
    static_assert(!std::is_same_v<Key<&Model::scale, "a">, Key<&Model::scale>>);
  }
  TEST_CASE("leads_to compares paths and ignores names") {
    using ToLayers = Key<&Model::query, &Tower::layers, "negatives">;
    static_assert(ToLayers::leads_to(&Model::query, &Tower::layers));
    static_assert(!ToLayers::leads_to(&Model::query));
    static_assert(!ToLayers::leads_to(&Model::pair));
    static_assert(Key<&Layer::weight>::leads_to(&Layer::weight) && !Key<&Layer::weight>::leads_to(&Layer::bias));
    static_assert(!Key<>::leads_to(&Layer::weight) && Key<>::leads_to());
  }
}

}  // namespace rookery
