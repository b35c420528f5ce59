// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// RowVocabulary: a table's rows belong to ids by a vocabulary that changes with the steps; else a row's number is its id.
//
// What the rest of the library sees of ManagedCollision: some functions by pointer, so that programs without one compile nothing of
// it. A kind of vocabulary is a type with the functions that `of` names.  Include cost: none.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rookery {

/// A row that a step gave to another id.
struct GivenRow {
  std::int64_t row = 0, id = 0;          // row counted from the shard's first
};

/// The ids of one shard's rows, on the rank that holds it. Copies share them.
class RowVocabulary {
 public:
  struct Functions {
    std::int64_t (*row_of)(const void*, std::int64_t id);
    void (*see)(void*, std::span<const std::int64_t> ids);
    std::vector<GivenRow> (*step)(void*);
    std::vector<std::int64_t> (*state)(const void*);
    void (*load)(void*, std::span<const std::int64_t> state);
  };

  RowVocabulary() = default;
  template <class Vocabulary> explicit RowVocabulary(Vocabulary vocabulary) : held_(std::make_shared<Vocabulary>(std::move(vocabulary))) {
    static constexpr Functions of{
        [](const void* v, std::int64_t id) { return static_cast<const Vocabulary*>(v)->row_of(id); },
        [](void* v, std::span<const std::int64_t> ids) { static_cast<Vocabulary*>(v)->see(ids); },
        [](void* v) { return static_cast<Vocabulary*>(v)->step(); },
        [](const void* v) { return static_cast<const Vocabulary*>(v)->state(); },
        [](void* v, std::span<const std::int64_t> state) { static_cast<Vocabulary*>(v)->load(state); },
    };
    functions_ = &of;
  }
  explicit operator bool() const { return held_ != nullptr; }

  /// The row of an id, counted from the shard's first.
  std::int64_t row_of(std::int64_t id) const { return functions_->row_of(held_.get(), id); }
  /// Counts sightings, for the next `step`.
  void see(std::span<const std::int64_t> ids) { functions_->see(held_.get(), ids); }
  /// Ends an optimizer step; the rows that changed hands want new initial values.
  std::vector<GivenRow> step() { return functions_->step(held_.get()); }
  /// Everything, for a checkpoint, and back. Errors of load: DataError for what does not fit.
  std::vector<std::int64_t> state() const { return functions_->state(held_.get()); }
  void load(std::span<const std::int64_t> state) { functions_->load(held_.get(), state); }

 private:
  std::shared_ptr<void> held_;
  const Functions* functions_ = nullptr;
};

/// How a table's rows are given to ids, as its config says it: nothing, or a ManagedCollision. Rows are cut into `buckets` of equal
/// size, an id's bucket follows from the id alone, and a shard holds whole buckets.
class RowAssignment {
 public:
  RowAssignment() noexcept {}
  /// From settings such as ManagedCollision, whose header brings the code.
  template <class Settings>
    requires requires(const Settings& settings) { settings.vocabulary(std::int64_t{}, std::int64_t{}, std::int64_t{}); }
  RowAssignment(const Settings& settings) : settings_(std::make_shared<const Settings>(settings)), buckets_(settings.buckets) {
    static constexpr Functions of{
        [](const void* s, std::int64_t id) { return static_cast<const Settings*>(s)->bucket_of(id); },
        [](const void* s, std::string_view table, std::int64_t rows) { static_cast<const Settings*>(s)->validate(table, rows); },
        [](const void* s) { return static_cast<const Settings*>(s)->describe(); },
        [](const void* s, std::int64_t rows, std::int64_t first, std::int64_t count) {
          return RowVocabulary(static_cast<const Settings*>(s)->vocabulary(rows, first, count));
        },
    };
    functions_ = &of;
  }
  explicit operator bool() const { return settings_ != nullptr; }

  std::int64_t buckets() const { return buckets_; }
  std::int64_t bucket_of(std::int64_t id) const { return functions_->bucket_of(settings_.get(), id); }
  /// Errors: ConfigError for settings that mean nothing on a table of that many rows.
  void validate(std::string_view table, std::int64_t rows) const { functions_->validate(settings_.get(), table, rows); }
  /// One line that differs where settings differ.
  std::string describe() const { return functions_->describe(settings_.get()); }
  /// An empty vocabulary of `count` buckets of `rows` rows from bucket `first` on.
  RowVocabulary vocabulary(std::int64_t rows, std::int64_t first, std::int64_t count) const {
    return functions_->vocabulary(settings_.get(), rows, first, count);
  }

 private:
  struct Functions {
    std::int64_t (*bucket_of)(const void*, std::int64_t id);
    void (*validate)(const void*, std::string_view table, std::int64_t rows);
    std::string (*describe)(const void*);
    RowVocabulary (*vocabulary)(const void*, std::int64_t rows, std::int64_t first, std::int64_t count);
  };

  std::shared_ptr<const void> settings_;
  const Functions* functions_ = nullptr;
  std::int64_t buckets_ = 1;
};

}  // namespace rookery
