// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// EmbeddingBagCollection: tables whose rows are pooled, one vector a feature and row of the batch.
//
// Answers to torchrec/modules/embedding_modules.py EmbeddingBagCollection; differs: tables may have any widths, a weighted mean
// divides by the sum of weights, bad ids are never looked up.  Include cost: tensor.

#include <utility>

#include <rookery/embedding/table_collection.hpp>

namespace rookery {

/// Tables that pool each feature's bags: KeyedJaggedTensor -> KeyedTensor [B, sum(D)]. Declared and refused as TableCollection.
template <class Set> class EmbeddingBagCollection : public TableCollection<EmbeddingBagConfig<Set>> {
 public:
  using TableCollection<EmbeddingBagConfig<Set>>::TableCollection;
  using Output = KeyedTensor;

  static Output output(LookedUp looked) { return {std::move(looked.columns), std::move(looked.pooled)}; }
};

}  // namespace rookery
