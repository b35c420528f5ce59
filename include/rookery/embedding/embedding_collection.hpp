// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// EmbeddingCollection: tables whose rows come back one by one, for models that read sequences.
//
// Answers to torchrec/modules/embedding_modules.py EmbeddingCollection; differs: tables may have any widths.
// Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/embedding/table_collection.hpp>

namespace rookery {

/// The rows that each feature's ids name, in the order of the ids.
class KeyedSequences {
 public:
  KeyedSequences() = default;
  KeyedSequences(std::shared_ptr<const KeyedColumns> columns, std::vector<JaggedTensor> sequences)
      : columns_(std::move(columns)), sequences_(std::move(sequences)) {}

  const std::vector<std::string>& keys() const { return columns_->keys; }
  /// Widths D of the keys.
  const std::vector<std::int64_t>& length_per_key() const { return columns_->length_per_key; }

  /// Features, as the length of TorchRec's dict. Rows are those of each: `[key].size()`.
  std::size_t size() const { return keys().size(); }
  bool contains(std::string_view key) const { return std::find(keys().begin(), keys().end(), key) != keys().end(); }
  /// Every feature with its key, in the order of the keys.
  std::vector<std::pair<std::string, JaggedTensor>> to_dict() const {
    std::vector<std::pair<std::string, JaggedTensor>> features;
    for (std::size_t i = 0; i < keys().size(); ++i) features.emplace_back(keys()[i], sequences_[i]);
    return features;
  }
  /// One feature: values [n, D], lengths [B], the ids' weights [n] where they had any. Errors: IndexError that lists the keys.
  const JaggedTensor& operator[](std::string_view key) const {
    for (std::size_t i = 0; i < keys().size(); ++i)
      if (keys()[i] == key) return sequences_[i];
    fail<IndexError>("KeyedSequences: no key '", key, "'; keys are ", keys());
  }

 private:
  std::shared_ptr<const KeyedColumns> columns_ = std::make_shared<const KeyedColumns>();
  std::vector<JaggedTensor> sequences_;
};

/// Tables that give the row of every id: KeyedJaggedTensor -> KeyedSequences. Weights of ids are passed on, not multiplied.
template <class Set> class EmbeddingCollection : public TableCollection<EmbeddingConfig<Set>> {
 public:
  using TableCollection<EmbeddingConfig<Set>>::TableCollection;
  using Output = KeyedSequences;

  static Output output(LookedUp looked) { return {std::move(looked.columns), std::move(looked.sequences)}; }
};

}  // namespace rookery
