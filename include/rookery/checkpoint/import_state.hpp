// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// import_state: gives a declared model the weights of a Python model, by names.
//
//   Ranker ranker = declare();
//   import_state(ranker, read_tensors("model.pt"), {{"ebc.*", "tables.*"}, {"over.0.*", "over.layers.0.*"}, {"*.steps", ""}});
//   auto model = sharding.apply(ModelAndLoss<..>{std::move(ranker), {}});
//
// Names that are alike on both sides need no entry: TorchRec's `tables.embedding_bags.user_id.weight` is ours too, and torch's Linear
// has our `weight` [out, in] and `bias` [out]. Answers to load_state_dict(.., strict=True).  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/checkpoint/named_tensor.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/embedding/lookups.hpp>

namespace rookery {

/// From a name in the file to one in the model; each may have one `*`, which stands for the same text on both sides. An empty `model`
/// leaves the file's entry out.
struct MappedName {
  std::string file, model;
};

struct ImportOptions {
  bool allow_missing = false;        // what the file does not have keeps its initial values
  bool allow_extra = false;          // what the model does not have is left out
};

/// What became of each name. `missing` and `extra` are empty unless they are allowed.
struct Imported {
  std::vector<MappedName> names;     // what was taken, in the order of the model
  std::vector<std::string> missing;  // of the model
  std::vector<std::string> extra;    // of the file
};

namespace detail {

/// A place for values in a model.
struct ModelEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  bool is_placed_table = false;
  const NamedTensor* source = nullptr;
};

/// The places of a declared model: parameters, buffers and tables.
template <class Model> std::vector<ModelEntry> model_entries(Model& model) {
  std::vector<ModelEntry> entries;
  visit_leaves(model, "", [&](std::string_view path, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter> || std::is_same_v<Leaf, Buffer>) {
      entries.push_back({std::string(path), leaf.shape()});
    } else if constexpr (EmbeddingTables<Leaf>) {
      for (const auto& config : leaf.configs())
        entries.push_back({leaf.full_name(path, config) + ".weight", {config.num_embeddings, config.embedding_dim}, leaf.is_placed()});
    }
  });
  return entries;
}

/// Gives each place its source; `entries` are those of model_entries, in its order.
template <class Model> void give_sources(Model& model, const std::vector<ModelEntry>& entries) {
  auto entry = entries.begin();
  visit_leaves(model, "", [&](std::string_view, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter> || std::is_same_v<Leaf, Buffer>) {
      if (entry->source) leaf.assign(entry->source->tensor);
      ++entry;
    } else if constexpr (EmbeddingTables<Leaf>) {
      for (const auto& config : leaf.configs()) {
        if (entry->source) leaf.assign(config.name, entry->source->tensor);
        ++entry;
      }
    }
  });
}

/// The text that `*` stands for when the pattern fits; empty for a pattern without one.
inline std::optional<std::string_view> match(std::string_view pattern, std::string_view name) {
  const auto star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name ? std::optional<std::string_view>("") : std::nullopt;
  const auto head = pattern.substr(0, star), tail = pattern.substr(star + 1);
  if (name.size() < head.size() + tail.size() || !name.starts_with(head) || !name.ends_with(tail)) return std::nullopt;
  return name.substr(star, name.size() - head.size() - tail.size());
}

/// The entry that names this entry of the file first, or the end.
inline auto find_mapped(const std::vector<MappedName>& map, std::string_view name) {
  return std::find_if(map.begin(), map.end(), [&](const MappedName& one) { return match(one.file, name).has_value(); });
}

/// The first ten as a list, and how many follow.
inline std::string some_of(const std::vector<std::string>& all) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(all.size(), 10); ++i) text += concat(i > 0 ? ", " : "", all[i]);
  return all.size() > 10 ? concat(text, " and ", all.size() - 10, " more") : text;
}

/// Finds the entries' sources. Errors: ConfigError for a map that cannot be followed.
inline void find_sources(std::vector<ModelEntry>& entries, const std::vector<NamedTensor>& tensors, const std::vector<MappedName>& map,
                         Imported& result) {
  std::map<std::string_view, ModelEntry*> places;
  for (auto& entry : entries) places.emplace(entry.name, &entry);
  std::vector<bool> used(map.size());
  for (const auto& tensor : tensors) {
    const auto rule = find_mapped(map, tensor.name);
    std::string name = tensor.name;
    if (rule != map.end()) {
      used[static_cast<std::size_t>(rule - map.begin())] = true;
      if (rule->model.empty()) continue;
      name = rule->model;
      if (const auto star = name.find('*'); star != std::string::npos) name.replace(star, 1, *match(rule->file, tensor.name));
    }
    const auto place = places.find(name);
    if (place == places.end()) {
      if (rule != map.end() && rule->model == name) {
        std::vector<std::string> names;
        for (const auto& one : entries) names.push_back(concat("'", one.name, "'"));
        fail<IndexError>("import_state: the map gives the file's '", tensor.name, "' to '", name,
                         "', which the model does not have; it has ", some_of(names));
      }
      result.extra.push_back(tensor.name);
      continue;
    }
    const auto*& source = place->second->source;
    check<ConfigError>(source == nullptr, "import_state: '", name, "' is given twice, by the file's '", source ? source->name : "",
                       "' and '", tensor.name, "'");
    source = &tensor;
  }
  for (std::size_t i = 0; i < map.size(); ++i)
    check<IndexError>(used[i] || map[i].model.empty(), "import_state: the map names '", map[i].file, "', which the file does not have");
}

/// Errors: IndexError for names without a counterpart, ShapeError for shapes that differ, ConfigError for dtypes that are no weights' and
///         for tables that are placed.
inline void check_sources(const std::vector<ModelEntry>& entries, const std::vector<NamedTensor>& tensors, const ImportOptions& options,
                          Imported& result) {
  std::vector<std::string> missing, extra, shapes, dtypes, placed;
  for (const auto& entry : entries) {
    if (!entry.source) {
      missing.push_back(concat("'", entry.name, "' ", entry.shape));
      result.missing.push_back(entry.name);
      continue;
    }
    if (entry.is_placed_table) placed.push_back(concat("'", entry.name, "'"));
    const auto& tensor = entry.source->tensor;
    if (tensor.sizes().vec() != entry.shape)
      shapes.push_back(concat("'", entry.source->name, "' is ", tensor.sizes(), " in the file and ", entry.shape, " in the model"));
    if (!at::isFloatingType(tensor.scalar_type()))
      dtypes.push_back(concat("'", entry.source->name, "' of ", c10::toString(tensor.scalar_type())));
    result.names.push_back({entry.source->name, entry.name});
  }
  std::size_t next = 0;                                        // extra names are in the order of the file
  for (const auto& tensor : tensors)
    if (next < result.extra.size() && tensor.name == result.extra[next]) {
      extra.push_back(concat("'", tensor.name, "' ", tensor.tensor.sizes()));
      ++next;
    }
  check<IndexError>((missing.empty() || options.allow_missing) && (extra.empty() || options.allow_extra), "import_state: ",
                    options.allow_missing || missing.empty() ? "" : concat("the file lacks ", some_of(missing)),
                    options.allow_missing || options.allow_extra || missing.empty() || extra.empty() ? "" : "; ",
                    options.allow_extra || extra.empty() ? "" : concat("the model has no place for ", some_of(extra)),
                    "; give a map of names, or allow it");
  check<ShapeError>(shapes.empty(), "import_state: ", some_of(shapes));
  check<ConfigError>(dtypes.empty(), "import_state: weights are floating point, not ", some_of(dtypes));
  check<ConfigError>(placed.empty(), "import_state: tables take values before the model is placed; placed are ", some_of(placed));
}

}  // namespace detail

/// Gives the tensors to the parameters, buffers and tables of a model that is not placed yet. All is checked before anything is given.
///
/// Shapes:  as the model's, exactly.
/// Dtypes:  any floating point; converted to the model's.
/// Errors:  IndexError that lists names, with shapes, that the file lacks or the model has no place for, unless they are allowed, and for
///          a map that names what is not there; ShapeError that lists both shapes; ConfigError for a name that is given twice, for
///          integers and for tables that are placed.
/// Cost:    one walk over the model. Dense values are copied; contiguous tensors of tables are held until the model is placed, so nobody
///          may change them before, and ranks of one process that import the same tensors hold them once.
/// Ranks:   each gives its declaration the same file, or at least its part of the tables; rank 0's dense values win.
/// Example: one table of a large file: `import_state(model, read_tensors(path), {{"ebc.embedding_bags.t1.weight",
///          "tables.embedding_bags.item.weight"}}, {.allow_missing = true, .allow_extra = true})`
template <class Model>
Imported import_state(Model& model, const std::vector<NamedTensor>& tensors, const std::vector<MappedName>& map = {},
                      const ImportOptions& options = {}) {
  auto entries = detail::model_entries(model);
  Imported result;
  detail::find_sources(entries, tensors, map, result);
  detail::check_sources(entries, tensors, options, result);
  detail::give_sources(model, entries);
  return result;
}

}  // namespace rookery
