// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// assign: gives a parameter, buffer or table its values by name.  Source: torch's load_state_dict, one entry at a time.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/embedding/lookups.hpp>

namespace rookery {

/// Gives `values` to the parameter, buffer or table of a declared model that is called `name`, as "over.layers.0.weight" or
/// "user.embedding_bags.user_id.weight". Assigned values win over initial ones when the model is placed; of dense values, rank 0's.
///
/// Shapes:  values as the parameter, or [num_embeddings, embedding_dim] of the table.
/// Errors:  IndexError that lists the names there are; ShapeError.
template <class Model> void assign(Model& model, std::string_view name, const at::Tensor& values) {
  std::vector<std::string> names;
  bool found = false;
  visit_leaves(model, "", [&](std::string_view path, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter> || std::is_same_v<Leaf, Buffer>) {
      names.emplace_back(path);
      if (path != name) return;
      check<ShapeError>(values.sizes().vec() == leaf.shape(), "assign: '", name, "' has shape ", leaf.shape(), "; the values have ",
                        values.sizes());
      leaf.assign(values);
      found = true;
    } else if constexpr (EmbeddingTables<Leaf>) {
      for (const auto& table : leaf.describe(path)) {
        names.push_back(table.name + ".weight");
        if (names.back() != name) continue;
        leaf.assign(table.table, values);
        found = true;
      }
    }
  });
  check<IndexError>(found, "assign: no parameter, buffer or table '", name, "'; there are ", names);
}

}  // namespace rookery
