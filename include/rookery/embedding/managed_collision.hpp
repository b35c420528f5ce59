// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ManagedCollision: any 64-bit id on a table of fixed size. Each row belongs to one id; ids that come too seldom or came too
// long ago give theirs up.
//
// A vocabulary changes at steps only, in an order that depends on ids and counts, never on ranks or on the order of a batch: a sharded
// run has the rows of a local one. Answers to torchrec/modules/mc_modules.py and hash_mc_modules.py; differs: an id that has no row
// yet shares the last row of its bucket and nothing else is ever shared.  Include cost: none.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/embedding/row_vocabulary.hpp>

namespace rookery {

/// Which id gives up its row: the one seen longest ago, the one seen least often, or least often with older sightings worth less.
enum class Eviction { lru, lfu, distance_lfu };

class CollisionVocabulary;

/// How a table's rows are given to ids. Part of EmbeddingBagConfig. Every pass that is captured for a step shows its ids, and a row
/// that changes hands starts at its new id's initial values, so values assigned to the table hold for its shared rows only.
///
/// The rows are cut into `buckets` of equal size; an id's bucket follows from the id alone, and a shard holds whole buckets. The last
/// row of a bucket is shared by its ids that have none of their own.
struct ManagedCollision {
  Eviction eviction = Eviction::lru;
  std::int64_t threshold = 1;            // sightings before an id may have a row
  std::int64_t interval = 1;             // steps between changes of the vocabulary
  std::int64_t buckets = 1;              // divides num_embeddings
  double decay = 1;                      // of distance_lfu: count / (steps since it was seen + 1)^decay
  std::int64_t candidates = 0;           // most ids without a row that are remembered in a bucket, twice as many between changes of the
                                         // vocabulary; 0: as many as it has rows

  /// Bucket of an id.
  std::int64_t bucket_of(std::int64_t id) const {
    return static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(id)) % static_cast<std::uint64_t>(buckets));
  }
  /// Errors: ConfigError for numbers that mean nothing on a table of that many rows.
  void validate(std::string_view table, std::int64_t rows) const {
    check<ConfigError>(threshold >= 1 && interval >= 1 && buckets >= 1 && candidates >= 0 && std::isfinite(decay) && decay >= 0,
                       "ManagedCollision: table '", table, "' has threshold ", threshold, ", interval ", interval, ", buckets ", buckets,
                       ", candidates ", candidates, ", decay ", decay, "; the first three are at least 1, the others not negative");
    check<ConfigError>(rows % buckets == 0 && rows / buckets >= 2, "ManagedCollision: table '", table, "' has ", rows, " rows and ",
                       buckets, " buckets; each needs the same number of rows, at least 2");
  }
  std::string describe() const {
    return concat("eviction ", static_cast<int>(eviction), " threshold ", threshold, " interval ", interval, " buckets ", buckets,
                  " decay ", decay, " candidates ", candidates);
  }
  /// An empty vocabulary of `count` buckets of `bucket_rows` rows.
  CollisionVocabulary vocabulary(std::int64_t bucket_rows, std::int64_t first_bucket, std::int64_t count) const;
};

/// The ids that have rows in some consecutive buckets of a table, on the rank that holds them. Takes memory as ids come.
///
/// Cost:    a hash lookup an id. Every `interval` steps a pass over the ids that wait, and in a bucket where some are ready and no row is
///          free a pass over its rows; sorted are the ids that are ready and as many owners.
class CollisionVocabulary {
 public:
  CollisionVocabulary(ManagedCollision settings, std::int64_t bucket_rows, std::int64_t first_bucket, std::int64_t buckets)
      : settings_(settings), bucket_rows_(bucket_rows), first_bucket_(first_bucket), buckets_(static_cast<std::size_t>(buckets)) {}

  /// The row of an id whose bucket is here, counted from the first bucket's first; the bucket's last where it has none.
  std::int64_t row_of(std::int64_t id) const {
    const auto number = settings_.bucket_of(id) - first_bucket_;
    const auto& bucket = buckets_[static_cast<std::size_t>(number)];
    const auto found = bucket.row_of.find(id);
    return number * bucket_rows_ + (found == bucket.row_of.end() ? bucket_rows_ - 1 : found->second);
  }

  /// Counts sightings, for the next `step`.
  void see(std::span<const std::int64_t> ids) {
    for (const auto id : ids) ++seen_[id];
  }

  /// Ends an optimizer step: what was seen counts, and every `interval` steps ids without a row take free ones, or those of ids that
  /// are worth less. Gives the rows that changed hands, which want new initial values.
  std::vector<GivenRow> step();

  /// Everything: steps, then (id, row, sightings, last step) of each id; one without a row has row -1.
  std::vector<std::int64_t> state() const;
  /// Takes what `state` gave. Errors: DataError for what does not fit these buckets.
  void load(std::span<const std::int64_t> state);

 private:
  struct Sightings {
    std::int64_t id = 0, count = 0, last = 0;
  };
  static constexpr std::int64_t most_counted = std::int64_t{1} << 53;   // of steps and sightings that a run can have, exact as doubles
  struct Bucket {
    std::unordered_map<std::int64_t, std::int64_t> row_of;
    std::vector<Sightings> owners;       // of the first rows, as many as were ever taken; free where count is 0
    std::size_t taken = 0;               // rows before this one are not free
    std::unordered_map<std::int64_t, Sightings> waiting;
  };

  double worth(const Sightings& one) const {
    switch (settings_.eviction) {
      case Eviction::lru: return static_cast<double>(one.last);
      case Eviction::lfu: return static_cast<double>(one.count);
      case Eviction::distance_lfu: break;
    }
    return static_cast<double>(one.count) / std::pow(static_cast<double>(steps_ - one.last + 1), settings_.decay);
  }
  /// Whether `a` deserves a row rather than `b`: worth more, then smaller id.
  bool before(const Sightings& a, const Sightings& b) const {
    const double of_a = worth(a), of_b = worth(b);
    return of_a != of_b ? of_a > of_b : a.id < b.id;
  }
  /// Gives rows to the ids that wait for one and are ready: free rows first, then those of the least worth.
  void admit(Bucket& bucket, std::int64_t first_row, std::vector<GivenRow>& given);
  /// Keeps the `most` best of the ids that wait; there are more.
  void forget(Bucket& bucket, std::size_t most) const;

  ManagedCollision settings_;
  std::int64_t bucket_rows_ = 0, first_bucket_ = 0, steps_ = 0;
  std::vector<Bucket> buckets_;
  std::unordered_map<std::int64_t, std::int64_t> seen_;
};

inline std::vector<GivenRow> CollisionVocabulary::step() {
  ++steps_;
  for (const auto& [id, count] : seen_) {
    auto& bucket = buckets_[static_cast<std::size_t>(settings_.bucket_of(id) - first_bucket_)];
    const auto found = bucket.row_of.find(id);
    auto& one = found == bucket.row_of.end() ? bucket.waiting[id] : bucket.owners[static_cast<std::size_t>(found->second)];
    one = {id, one.count + count, steps_};
  }
  seen_.clear();
  std::vector<GivenRow> given;
  const bool changes = steps_ % settings_.interval == 0;
  const auto most = static_cast<std::size_t>(settings_.candidates > 0 ? settings_.candidates : bucket_rows_);
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (changes) admit(buckets_[b], static_cast<std::int64_t>(b) * bucket_rows_, given);
    if (buckets_[b].waiting.size() > (changes ? most : 2 * most)) forget(buckets_[b], most);
  }
  return given;
}

inline void CollisionVocabulary::admit(Bucket& bucket, std::int64_t first_row, std::vector<GivenRow>& given) {
  std::vector<Sightings> ready;
  for (const auto& [id, one] : bucket.waiting)
    if (one.count >= settings_.threshold) ready.push_back(one);
  if (ready.empty()) return;
  std::sort(ready.begin(), ready.end(), [&](const Sightings& a, const Sightings& b) { return before(a, b); });
  auto next = ready.begin();
  const auto take = [&](std::size_t row) {
    bucket.owners[row] = *next;
    bucket.row_of[next->id] = static_cast<std::int64_t>(row);
    bucket.waiting.erase(next->id);
    given.push_back({first_row + static_cast<std::int64_t>(row), next->id});
    ++next;
  };
  for (auto& row = bucket.taken; row < static_cast<std::size_t>(bucket_rows_ - 1) && next != ready.end(); ++row) {
    if (row == bucket.owners.size()) bucket.owners.emplace_back();
    if (bucket.owners[row].count == 0) take(row);
  }
  if (next == ready.end()) return;

  struct Victim {
    double worth = 0;
    std::int64_t id = 0;
    std::size_t row = 0;
  };
  std::vector<Victim> victims;                                 // owners worth less than the best that is left
  const double best = worth(*next);
  for (std::size_t row = 0; row < bucket.owners.size(); ++row)
    if (const double old = worth(bucket.owners[row]); old < best) victims.push_back({old, bucket.owners[row].id, row});
  const auto most = std::min(victims.size(), static_cast<std::size_t>(ready.end() - next));
  std::partial_sort(victims.begin(), victims.begin() + static_cast<std::ptrdiff_t>(most), victims.end(),
                    [](const Victim& a, const Victim& b) { return a.worth != b.worth ? a.worth < b.worth : a.id > b.id; });
  for (std::size_t v = 0; v < most && worth(*next) > victims[v].worth; ++v) {
    bucket.row_of.erase(victims[v].id);
    take(victims[v].row);
  }
}

inline void CollisionVocabulary::forget(Bucket& bucket, std::size_t most) const {
  std::vector<Sightings> all;
  for (const auto& [id, one] : bucket.waiting) all.push_back(one);
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(most), all.end(),
                   [&](const Sightings& a, const Sightings& b) { return before(a, b); });
  for (std::size_t i = most; i < all.size(); ++i) bucket.waiting.erase(all[i].id);
}

inline CollisionVocabulary ManagedCollision::vocabulary(std::int64_t bucket_rows, std::int64_t first_bucket, std::int64_t count) const {
  return {*this, bucket_rows, first_bucket, count};
}

inline std::vector<std::int64_t> CollisionVocabulary::state() const {
  std::vector<std::int64_t> lines{steps_};
  const auto add = [&](const Sightings& one, std::int64_t row) { lines.insert(lines.end(), {one.id, row, one.count, one.last}); };
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    for (std::size_t row = 0; row < buckets_[b].owners.size(); ++row)
      if (const auto& one = buckets_[b].owners[row]; one.count > 0)
        add(one, static_cast<std::int64_t>(b) * bucket_rows_ + static_cast<std::int64_t>(row));
    std::vector<Sightings> waiting;
    for (const auto& [id, one] : buckets_[b].waiting) waiting.push_back(one);
    std::sort(waiting.begin(), waiting.end(), [](const Sightings& a, const Sightings& c) { return a.id < c.id; });
    for (const auto& one : waiting) add(one, -1);
  }
  return lines;
}

inline void CollisionVocabulary::load(std::span<const std::int64_t> state) {
  check<DataError>(state.size() % 4 == 1, "CollisionVocabulary: a state has ", state.size(), " numbers; it must be 1 + 4 an id");
  CollisionVocabulary loaded(settings_, bucket_rows_, first_bucket_, static_cast<std::int64_t>(buckets_.size()));
  loaded.steps_ = state[0];
  check<DataError>(loaded.steps_ >= 0 && loaded.steps_ <= most_counted, "CollisionVocabulary: a state after ", loaded.steps_, " steps");
  for (auto line = state.begin() + 1; line != state.end(); line += 4) {
    const Sightings one{line[0], line[2], line[3]};
    const auto row = line[1], number = settings_.bucket_of(one.id) - first_bucket_;
    const bool here = number >= 0 && number < static_cast<std::int64_t>(buckets_.size());
    const auto inside = row - number * bucket_rows_;
    check<DataError>(here && one.count > 0 && (row == -1 || (inside >= 0 && inside < bucket_rows_ - 1)), "CollisionVocabulary: id ", one.id,
                     " with ", one.count, " sightings and row ", row, " does not fit buckets ", first_bucket_, " to ",
                     first_bucket_ + static_cast<std::int64_t>(buckets_.size()) - 1, " of ", bucket_rows_, " rows");
    check<DataError>(one.count <= most_counted, "CollisionVocabulary: id ", one.id, " with ", one.count,
                     " sightings; no run has more than ", most_counted);
    check<DataError>(one.last >= 1 && one.last <= loaded.steps_, "CollisionVocabulary: id ", one.id, " was seen at step ", one.last, " of ",
                     loaded.steps_);
    auto& bucket = loaded.buckets_[static_cast<std::size_t>(number)];
    check<DataError>(!bucket.waiting.contains(one.id) && !bucket.row_of.contains(one.id), "CollisionVocabulary: id ", one.id,
                     " is given twice");
    if (row < 0) {
      bucket.waiting[one.id] = one;
      continue;
    }
    if (bucket.owners.size() <= static_cast<std::size_t>(inside)) bucket.owners.resize(static_cast<std::size_t>(inside) + 1);
    auto& owner = bucket.owners[static_cast<std::size_t>(inside)];
    check<DataError>(owner.count == 0 && bucket.row_of.emplace(one.id, inside).second, "CollisionVocabulary: id ", one.id, " and row ", row,
                     " are given twice");
    owner = one;
  }
  *this = std::move(loaded);
}

}  // namespace rookery
