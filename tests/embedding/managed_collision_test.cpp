// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/embedding/managed_collision.hpp>

#include <rookery/core/mix.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Draw;
using Ids = std::vector<std::int64_t>;

/// Sees the ids and ends a step; gives the ids that got rows, ascending.
Ids step(CollisionVocabulary& vocabulary, const Ids& ids) {
  vocabulary.see(ids);
  Ids given;
  for (const auto& [row, id] : vocabulary.step()) {
    CHECK(vocabulary.row_of(id) == row);
    given.push_back(id);
  }
  std::sort(given.begin(), given.end());
  return given;
}

/// The law of a bucket in plain words: every row sorted, every id that waits sorted, at every change.
class PlainBucket {
 public:
  PlainBucket(ManagedCollision settings, std::int64_t rows)
      : settings_(settings), owners_(static_cast<std::size_t>(rows - 1)), rows_(rows) {}

  /// (row, id) given, in order.
  std::vector<std::pair<std::int64_t, std::int64_t>> step(const Ids& ids) {
    ++steps_;
    for (const auto id : ids) {
      const auto owner = std::find_if(owners_.begin(), owners_.end(), [&](const One& one) { return one.count > 0 && one.id == id; });
      auto& one = owner != owners_.end() ? *owner : waiting_[id];
      one = {id, one.count + 1, steps_};
    }
    const auto most = static_cast<std::size_t>(settings_.candidates > 0 ? settings_.candidates : rows_);
    if (steps_ % settings_.interval != 0) {
      if (waiting_.size() > 2 * most) forget(most);
      return {};
    }
    std::vector<std::pair<std::int64_t, std::int64_t>> given;
    std::vector<std::size_t> order(owners_.size());
    for (std::size_t row = 0; row < order.size(); ++row) order[row] = row;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      const bool free_a = owners_[a].count == 0, free_b = owners_[b].count == 0;
      if (free_a || free_b) return free_a != free_b ? free_a : a < b;
      return better(owners_[b], owners_[a]);
    });
    for (const auto& one : sorted_waiting()) {
      if (one.count < settings_.threshold) continue;
      if (given.size() == order.size()) break;
      auto& old = owners_[order[given.size()]];
      if (old.count > 0 && worth(one) <= worth(old)) break;
      old = one;
      waiting_.erase(one.id);
      given.emplace_back(order[given.size()], one.id);
    }
    if (waiting_.size() > most) forget(most);
    return given;
  }
  /// As CollisionVocabulary::state.
  Ids state() const {
    Ids lines{steps_};
    for (std::size_t row = 0; row < owners_.size(); ++row)
      if (const auto& one = owners_[row]; one.count > 0)
        lines.insert(lines.end(), {one.id, static_cast<std::int64_t>(row), one.count, one.last});
    for (const auto& [id, one] : waiting_) lines.insert(lines.end(), {id, -1, one.count, one.last});
    return lines;
  }

 private:
  struct One {
    std::int64_t id = 0, count = 0, last = 0;
  };
  double worth(const One& one) const {
    if (settings_.eviction == Eviction::lru) return static_cast<double>(one.last);
    if (settings_.eviction == Eviction::lfu) return static_cast<double>(one.count);
    return static_cast<double>(one.count) / std::pow(static_cast<double>(steps_ - one.last + 1), settings_.decay);
  }
  bool better(const One& a, const One& b) const { return worth(a) != worth(b) ? worth(a) > worth(b) : a.id < b.id; }
  std::vector<One> sorted_waiting() const {
    std::vector<One> all;
    for (const auto& [id, one] : waiting_) all.push_back(one);
    std::sort(all.begin(), all.end(), [&](const One& a, const One& b) { return better(a, b); });
    return all;
  }
  void forget(std::size_t most) {
    const auto all = sorted_waiting();
    for (std::size_t i = most; i < all.size(); ++i) waiting_.erase(all[i].id);
  }

  ManagedCollision settings_;
  std::vector<One> owners_;
  std::map<std::int64_t, One> waiting_;
  std::int64_t rows_ = 0, steps_ = 0;
};

}  // namespace

TEST_SUITE("core/mix") {
  TEST_CASE("mix64 gives the numbers of splitmix64") {
    CHECK(mix64(0x9e3779b97f4a7c15ULL) == 0xe220a8397b1dcdafULL);        // the first two of splitmix64 from 0
    CHECK(mix64(2 * 0x9e3779b97f4a7c15ULL) == 0x6e789e6aa1b965f4ULL);
  }
}

TEST_SUITE("embedding/managed_collision") {
  TEST_CASE("ids have a row of their own after the step that saw them, any 64-bit number; others share the last") {
    const auto largest = std::numeric_limits<std::int64_t>::max(), least = std::numeric_limits<std::int64_t>::min();
    CollisionVocabulary vocabulary({}, 4, 0, 1);
    CHECK(vocabulary.row_of(7) == 3);
    CHECK(step(vocabulary, {largest, -1, largest}) == Ids{-1, largest});
    CHECK(step(vocabulary, {least}) == Ids{least});
    const std::set<std::int64_t> rows{vocabulary.row_of(largest), vocabulary.row_of(-1), vocabulary.row_of(least)};
    CHECK(rows == std::set<std::int64_t>{0, 1, 2});
    CHECK(vocabulary.row_of(7) == 3);
  }

  TEST_CASE("LRU gives the row of the id seen longest ago to one seen now, not between ids seen at once") {
    CollisionVocabulary vocabulary({.eviction = Eviction::lru}, 3, 0, 1);
    step(vocabulary, {1, 1, 1});
    step(vocabulary, {2});
    const auto row = vocabulary.row_of(1);
    CHECK(step(vocabulary, {2, 3}) == Ids{3});                           // 1 was seen longest ago, however often
    CHECK(vocabulary.row_of(3) == row);
    CHECK(vocabulary.row_of(1) == 2);
    CHECK(step(vocabulary, {2, 3, 4}).empty());                          // all of the same step: who has a row keeps it
  }

  TEST_CASE("LFU gives the row of the id seen least often to one seen more often") {
    CollisionVocabulary vocabulary({.eviction = Eviction::lfu}, 3, 0, 1);
    step(vocabulary, {1, 1, 1, 2});
    CHECK(step(vocabulary, {3}).empty());                                // as often as 2: who has a row keeps it
    CHECK(step(vocabulary, {3}) == Ids{3});                              // twice now
    CHECK(vocabulary.row_of(2) == 2);
    CHECK(vocabulary.row_of(1) != 2);
  }

  TEST_CASE("distance LFU: counts fade with the steps since") {
    CollisionVocabulary vocabulary({.eviction = Eviction::distance_lfu, .decay = 1}, 2, 0, 1);
    step(vocabulary, {1, 1, 1, 1});                                      // worth 4 now, then 4/2, 4/3
    CHECK(step(vocabulary, {2}).empty());                                // 1 against 4/2
    CHECK(step(vocabulary, {2}) == Ids{2});                              // 2 against 4/3
  }

  TEST_CASE("a threshold of sightings, and an interval of steps") {
    CollisionVocabulary rare({.threshold = 3}, 4, 0, 1);
    CHECK(step(rare, {5, 5, 6}).empty());
    CHECK(step(rare, {5, 6}) == Ids{5});
    CHECK(step(rare, {6}) == Ids{6});
    CollisionVocabulary slow({.interval = 3}, 4, 0, 1);
    CHECK(step(slow, {5}).empty());
    CHECK(step(slow, {6}).empty());
    CHECK(step(slow, {}) == Ids{5, 6});
  }

  TEST_CASE("the ids remembered without a row are bounded, the best of them kept") {
    CollisionVocabulary vocabulary({.eviction = Eviction::lfu, .threshold = 3, .candidates = 2}, 4, 0, 1);
    step(vocabulary, {1, 1, 2, 2, 3, 4, 5});
    CHECK(step(vocabulary, {1, 2, 3, 3}) == Ids{1, 2});                  // the first sighting of 3 was forgotten
  }

  TEST_CASE("random sightings under random settings give what the law in plain words gives, row by row and step by step") {
    Draw draw(7);
    std::int64_t evicted = 0;
    for (int trial = 0; trial < 300; ++trial) {
      CAPTURE(trial);
      const ManagedCollision settings{.eviction = static_cast<Eviction>(trial % 3),
                                      .threshold = draw.integer(1, 3),
                                      .interval = draw.integer(1, 4),
                                      .decay = draw.integer(0, 2) * .5,
                                      .candidates = draw.integer(0, 4)};
      const auto rows = draw.integer(2, 12), ids = draw.integer(1, 40);
      CollisionVocabulary vocabulary(settings, rows, 0, 1);
      PlainBucket plain(settings, rows);
      for (int i = 0; i < 40; ++i) {
        Ids seen;
        for (auto n = draw.integer(0, 12); n > 0; --n) seen.push_back(std::min(draw.integer(0, ids), draw.integer(0, ids)));
        vocabulary.see(seen);
        std::vector<std::pair<std::int64_t, std::int64_t>> given;
        for (const auto& [row, id] : vocabulary.step()) given.emplace_back(row, id);
        CHECK(given == plain.step(seen));
        const auto state = vocabulary.state();
        CHECK(state == plain.state());
        evicted += i > 20 && !given.empty();
        if (i % 7 == 0) {                                                // and after a checkpoint too
          vocabulary = CollisionVocabulary(settings, rows, 0, 1);
          vocabulary.load(state);
        }
      }
    }
    CHECK(evicted > 500);
  }
  TEST_CASE("a long interval remembers no more than twice the candidates") {
    CollisionVocabulary vocabulary({.interval = 1'000'000, .candidates = 10}, 8, 0, 1);
    for (std::int64_t i = 0; i < 300; ++i) {
      Ids ids;
      for (std::int64_t k = 0; k < 15; ++k) ids.push_back(100 * i + k);
      step(vocabulary, ids);
      CHECK(vocabulary.state().size() <= 1 + 4 * 20);
    }
    CHECK(vocabulary.state()[1] == 29900);                               // the last that came, the smallest ids among equals
  }
  TEST_CASE("free rows are found wherever a state leaves them, the lowest first") {
    CollisionVocabulary vocabulary({}, 6, 0, 1);
    vocabulary.load(Ids{3, 50, 0, 1, 2, 60, 2, 1, 3, 70, 4, 1, 3});
    CHECK(step(vocabulary, {1, 2, 3}) == Ids{1, 2, 3});
    CHECK(vocabulary.row_of(1) == 1);
    CHECK(vocabulary.row_of(2) == 3);
    CHECK(vocabulary.row_of(3) == 0);                                    // none is free: 50 was seen longest ago
    CHECK(vocabulary.row_of(50) == 5);
  }

  TEST_CASE("buckets split apart give what they give together, in any order of ids") {
    Draw draw(4);
    for (int trial = 0; trial < 30; ++trial) {
      const ManagedCollision settings{.eviction = static_cast<Eviction>(trial % 3),
                                      .threshold = draw.integer(1, 3),
                                      .interval = draw.integer(1, 3),
                                      .buckets = 4,
                                      .decay = .5};
      const auto rows = draw.integer(2, 6);
      CollisionVocabulary whole(settings, rows, 0, 4), left(settings, rows, 0, 1), right(settings, rows, 1, 3);
      for (int i = 0; i < 20; ++i) {
        Ids ids, of_left, of_right;
        for (int k = 0; k < 12; ++k) ids.push_back(draw.integer(-20, 20) * 1'000'003);
        whole.see(ids);
        std::reverse(ids.begin(), ids.end());
        for (const auto id : ids) (settings.bucket_of(id) == 0 ? of_left : of_right).push_back(id);
        left.see(of_left);
        right.see(of_right);
        whole.step();
        left.step();
        right.step();
        std::map<std::int64_t, std::int64_t> id_of;
        for (std::int64_t id = -20; id <= 20; ++id) {
          const auto raw = id * 1'000'003, row = whole.row_of(raw), bucket = settings.bucket_of(raw);
          CHECK(row == (bucket == 0 ? left.row_of(raw) : rows + right.row_of(raw)));
          CHECK(row / rows == bucket);
          if (row % rows != rows - 1) CHECK(id_of.emplace(row, raw).second);   // no row has two ids
        }
      }
    }
  }

  TEST_CASE("state goes on where it was, and what does not fit is refused") {
    const ManagedCollision settings{.eviction = Eviction::lfu, .threshold = 2, .interval = 2, .buckets = 2};
    CollisionVocabulary one(settings, 4, 0, 2), other(settings, 4, 0, 2);
    Draw draw(9);
    const auto some = [&] {
      Ids ids;
      for (int k = 0; k < 9; ++k) ids.push_back(draw.integer(0, 15));
      return ids;
    };
    for (int i = 0; i < 7; ++i) step(one, some());
    other.load(one.state());
    for (int i = 0; i < 7; ++i) {
      const auto ids = some();
      CHECK(step(one, ids) == step(other, ids));
      for (std::int64_t id = 0; id < 16; ++id) CHECK(one.row_of(id) == other.row_of(id));
    }
    auto state = one.state();
    state[2] = 77;
    CHECK_THROWS_AS(other.load(state), DataError);
    state.pop_back();
    CHECK_THROWS_AS(other.load(state), DataError);
    const auto good = one.state();
    for (const auto& [at, value] : {std::pair{0, -1}, {4, 99}, {4, 0}}) {  // steps, and at which an id was seen last
      auto wrong = good;
      wrong[static_cast<std::size_t>(at)] = value;
      CHECK_THROWS_AS(other.load(wrong), DataError);
    }
    for (const std::size_t at : {0, 3}) {                                // one step or sighting more would overflow, and the id be gone
      auto wrong = good;
      wrong[at] = std::numeric_limits<std::int64_t>::max();
      CHECK_THROWS_AS(other.load(wrong), DataError);
    }
    auto twice = good;
    twice.insert(twice.end(), {good[1], -1, 1, 1});
    CHECK_THROWS_WITH_AS(other.load(twice), doctest::Contains("is given twice"), DataError);
    CHECK_THROWS_AS(CollisionVocabulary(settings, 2, 0, 2).load(one.state()), DataError);
  }

  TEST_CASE("settings that mean nothing are refused") {
    CHECK_THROWS_WITH_AS((ManagedCollision{.buckets = 3}.validate("t", 10)),
                         "ManagedCollision: table 't' has 10 rows and 3 buckets; each needs the same number of rows, at least 2",
                         ConfigError);
    CHECK_THROWS_AS((ManagedCollision{.threshold = 0}.validate("t", 10)), ConfigError);
    CHECK_THROWS_AS((ManagedCollision{.buckets = 10}.validate("t", 10)), ConfigError);
    ManagedCollision{.buckets = 5}.validate("t", 10);
  }
}

}  // namespace rookery
