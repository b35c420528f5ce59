// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Columns of ids, from the text of their cells: tokens, the vocabulary that they make, and the rows that they are.
//
// A column is read once to know its vocabulary. IdBuilder keeps the codes of that reading and makes rows of them; a reader that keeps
// nothing reads the file again, with IdTokens::rows.  Include cost: none.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/vocabulary.hpp>

namespace rookery::detail {

/// The first `count` characters of a UTF-8 text, all of them for 0.
inline std::string_view first_characters(std::string_view text, std::int64_t count) {
  if (count == 0) return text;
  const auto starts_character = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  std::size_t end = 0;
  for (; end < text.size(); ++end)
    if (starts_character(text[end]) && count-- == 0) break;
  return text.substr(0, end);
}

/// The bucket of a number as a token.
inline std::string bucket_token(const Bucket& bucket, const Cell& cell) {
  const double number = number_of(cell);
  const auto& boundaries = bucket.boundaries;
  if (!boundaries.empty()) return std::to_string(std::upper_bound(boundaries.begin(), boundaries.end(), number) - boundaries.begin());
  const double index = std::floor(number / bucket.width);
  if (std::abs(index) > 0x1p53) cell.refuse("is too large for buckets of ", bucket.width);
  return bucket.zero_apart && number == 0 ? "0" : std::to_string(static_cast<std::int64_t>(index) + (bucket.zero_apart ? 1 : 0));
}

/// The tokens of an id column. A token has a code: its number in the vocabulary, or its row where no vocabulary is needed; -1 for what has
/// no row.
class IdTokens {
 public:
  explicit IdTokens(IdColumn id) : id_(std::move(id)), unknown_(unknown_of(id_)), count_(id_.num_embeddings) {}

  const std::string& name() const { return name_of(id_); }
  const IdColumn& column() const { return id_; }
  UnknownIds unknown() const { return unknown_; }
  bool has_vocabulary() const { return id_.rows == IdRows::whole_file || id_.rows == IdRows::training_part; }
  /// Tokens of the vocabulary so far.
  std::size_t size() const { return static_cast<std::size_t>(tokens_.size()); }

  /// The first reading: calls `push(code)` for each token of a cell.
  template <class Push> void read(const Cell& cell, Push&& push) {
    for_each_token(cell, push, [&](std::string_view token) {
      return add({cell.file, cell.line, cell.column, token}, Tokens::hash_of(token));
    });
  }
  /// The same for a reader that can wait: appends the codes, some of which are only right after the next finish_reading(). Looking up many
  /// tokens at a time takes a third of the time where the vocabulary is large.
  void read(const Cell& cell, std::vector<std::int64_t>& codes) {
    const auto push = [&](std::int64_t code) { codes.push_back(code); };
    for_each_token(cell, push, [&](std::string_view token) {
      waiting_.push_back(
          {{cell.file, cell.line, cell.column, {}}, codes.size(), waiting_text_.size(), token.size(), Tokens::hash_of(token)});
      tokens_.prefetch_slot(waiting_.back().hash);
      waiting_text_ += token;
      return std::int64_t{-1};
    });
    if (waiting_.size() >= 64) finish_reading(codes);
  }
  void finish_reading(std::vector<std::int64_t>& codes) {
    for (const auto& token : waiting_) tokens_.prefetch_text(token.hash);
    for (auto& token : waiting_) {
      token.cell.text = std::string_view(waiting_text_).substr(token.begin, token.size);
      codes[token.index] = add(token.cell, token.hash);
    }
    waiting_.clear();
    waiting_text_.clear();
  }

  /// After it: the vocabulary's tokens with `used[code]` get rows, in the order of their bytes.
  /// Errors: DataError for a training part without tokens, and for a token without a row where those are refused.
  void close(const std::vector<bool>& used) {
    if (has_vocabulary()) {
      rows_ = tokens_.sorted_rows([&](std::int64_t code) { return is_used(used, code); });
      count_ = std::count_if(rows_.begin(), rows_.end(), [](std::int64_t row) { return row >= 0; });
      check<DataError>(count_ > 0 || unknown_ == UnknownIds::own_row, "id column '", name(), "': the training part has no token of it");
      for (std::int64_t code = 0; refuses_later() && code < tokens_.size(); ++code)
        if (rows_[static_cast<std::size_t>(code)] < 0) refuse_first_at(code);
    }
    if (unknown_ == UnknownIds::own_row) ++count_;
  }

  /// Rows of the embedding table, once closed.
  std::int64_t count() const { return count_; }
  /// Whether a code has a row of its own.
  bool has_row(std::int64_t code) const { return code >= 0 && (!has_vocabulary() || rows_[static_cast<std::size_t>(code)] >= 0); }
  /// The row of a code, once closed: its own or that of unknown tokens; -1 where it is left out.
  std::int64_t row(std::int64_t code) const {
    if (has_row(code)) return has_vocabulary() ? rows_[static_cast<std::size_t>(code)] : code;
    return unknown_ == UnknownIds::own_row ? count_ - 1 : -1;
  }

  /// Another reading of the same file: calls `push(row)` for each token of a cell that has one.
  template <class Push> void rows(const Cell& cell, Push&& push) const {
    const auto push_row = [&](std::int64_t code) {
      if (const auto found = row(code); found >= 0) push(found);
    };
    for_each_token(cell, push_row, [&](std::string_view token) {
      const auto code = tokens_.find(token);
      if (code < 0) cell.refuse("was not there when the file was first read");
      return code;
    });
  }

 private:
  struct Waiting {
    Cell cell;                        // but for its text
    std::size_t index, begin, size;   // among the codes, and of its text
    std::uint32_t hash;
  };

  /// The code of a token.
  std::int64_t add(const Cell& cell, std::uint32_t hash) {
    const auto code = tokens_.add(cell.text, hash);
    if (refuses_later() && static_cast<std::size_t>(code) == places_.size()) places_.push_back({cell.file, cell.line, cell.column, {}});
    return code;
  }
  /// Whether a token that has no row is an error that only the whole file can tell.
  bool refuses_later() const { return id_.rows == IdRows::training_part && unknown_ == UnknownIds::refuse; }
  bool is_used(const std::vector<bool>& used, std::int64_t code) const {
    return id_.rows == IdRows::whole_file || used[static_cast<std::size_t>(code)];
  }
  /// Codes come in the order of the file, so the first of them without a row is the first token without one.
  [[noreturn]] void refuse_first_at(std::int64_t code) const {
    Cell cell = places_[static_cast<std::size_t>(code)];
    cell.text = tokens_[code];
    cell.refuse("does not occur in the training part; to accept it, set unknown = own_row or empty_bag");
  }

  template <class Push, class CodeOf> void for_each_token(const Cell& cell, Push&& push, CodeOf&& code_of) const {
    if (contains(id_.missing_texts, cell.text)) return push(unknown_code(cell, "is missing"));
    if (id_.separator.empty()) return push(code(cell, code_of));
    for (std::size_t at = 0; at <= cell.text.size();) {
      const auto end = std::min(cell.text.find(id_.separator, at), cell.text.size());
      if (end > at) push(code({cell.file, cell.line, cell.column, cell.text.substr(at, end - at)}, code_of));
      at = end + id_.separator.size();
    }
  }

  template <class CodeOf> std::int64_t code(Cell cell, CodeOf& code_of) const {
    cell.text = first_characters(cell.text, id_.first_characters);
    const auto bucket = id_.bucket ? bucket_token(*id_.bucket, cell) : std::string();
    if (id_.bucket) cell.text = bucket;
    if (has_vocabulary()) return code_of(cell.text);
    if (id_.rows == IdRows::hashed) return hashed_row(cell.text, id_.num_embeddings, id_.seed);
    const auto number = integer_of(cell);
    if (0 <= number && number < id_.num_embeddings) return number;
    return unknown_code(cell, "is not a row of id column '", name(), "', which has rows 0 to ", id_.num_embeddings - 1);
  }

  template <class... Why> std::int64_t unknown_code(const Cell& cell, const Why&... why) const {
    if (unknown_ == UnknownIds::refuse) cell.refuse(why..., "; to accept it, set unknown = own_row or empty_bag");
    return -1;
  }

  IdColumn id_;
  UnknownIds unknown_;
  std::int64_t count_;
  Tokens tokens_;
  std::vector<std::int64_t> rows_;  // of each token
  std::vector<Waiting> waiting_;
  std::string waiting_text_;
  std::vector<Cell> places_;        // where each token was first seen, kept only where one without a row is refused
};

/// An id column while its file is read into memory.
class IdBuilder {
 public:
  IdBuilder(IdColumn id, std::size_t table) : tokens_(std::move(id)), table_(table) { offsets_.push_back(0); }

  void add(const Cell& cell) {
    tokens_.read(cell, ids_);
    offsets_.push_back(static_cast<std::int64_t>(ids_.size()));
  }
  /// The row that stands for keys that a side table does not have.
  void add_missing() {
    check<ConfigError>(tokens_.unknown() != UnknownIds::refuse, "id column '", tokens_.name(),
                       "': its side table lets unknown keys pass, so unknown must be own_row or empty_bag");
    ids_.push_back(-1);
    offsets_.push_back(static_cast<std::int64_t>(ids_.size()));
    has_missing_row_ = true;
  }

  /// The column as rows of its embedding table; `is_trained(row)` says which rows of its own table the training part reaches.
  template <class IsTrained> IdData finish(IsTrained&& is_trained) {
    tokens_.finish_reading(ids_);
    std::vector<bool> used(tokens_.size());
    if (tokens_.column().rows == IdRows::training_part)
      for (std::size_t row = 0; row + 1 < offsets_.size(); ++row)
        for (auto i = offsets_[row]; i < offsets_[row + 1] && is_trained(row); ++i)
          if (const auto code = ids_[static_cast<std::size_t>(i)]; code >= 0) used[static_cast<std::size_t>(code)] = true;
    tokens_.close(used);
    const auto unknown = std::count_if(ids_.begin(), ids_.end(), [&](std::int64_t code) { return !tokens_.has_row(code); });
    std::size_t kept = 0;
    auto begin = offsets_[0];
    for (std::size_t row = 0; row + 1 < offsets_.size(); ++row) {
      for (const auto end = offsets_[row + 1]; begin < end; ++begin)
        if (const auto id = tokens_.row(ids_[static_cast<std::size_t>(begin)]); id >= 0) ids_[kept++] = id;
      offsets_[row + 1] = static_cast<std::int64_t>(kept);
    }
    ids_.resize(kept);
    const bool is_multi_hot = !tokens_.column().separator.empty();
    if (!is_multi_hot && ids_.size() + 1 == offsets_.size()) offsets_ = {};
    return {{tokens_.name(), tokens_.count(), is_multi_hot, unknown - (has_missing_row_ ? 1 : 0)}, table_, std::move(ids_),
            std::move(offsets_)};
  }

 private:
  IdTokens tokens_;
  std::size_t table_;
  std::vector<std::int64_t> ids_, offsets_;
  bool has_missing_row_ = false;
};

}  // namespace rookery::detail
