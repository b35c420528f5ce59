// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// describe_tables: the tables of a declared model, so that it can be planned before anything is placed or allocated.
//
// Include cost: tensor.

#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/members.hpp>
#include <rookery/embedding/table_collection.hpp>

namespace rookery {

/// The tables of a model, a ModelAndLoss or a collection, in member order and under the names that they have once placed.
template <class Model> std::vector<TableDescription> describe_tables(const Model& model) {
  if constexpr (requires { model.model, model.loss; }) {
    return describe_tables(model.model);
  } else {
    std::vector<TableDescription> tables;
    visit_leaves(model, "", [&](std::string_view path, const auto& leaf) {
      if constexpr (requires { leaf.is_embedding_tables; })
        for (auto& table : leaf.describe(path)) tables.push_back(std::move(table));
    });
    return tables;
  }
}

}  // namespace rookery
