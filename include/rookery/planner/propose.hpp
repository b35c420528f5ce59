// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Proposers: which option of each table to try, in what order; PlanSearch tries them and keeps the best.
//
// A proposal that cannot be better than the best so far, by the sum of its seconds or of its bytes, is not placed at all.
// Answers to torchrec/distributed/planner/proposers.py; differs: dynamic programming keeps proposals that trade time for memory only,
// and falling_limit, which mixes kinds so that no table alone decides how long a step is, is new.  Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <rookery/planner/enumerate.hpp>
#include <rookery/planner/partition.hpp>

namespace rookery {

/// Ways to go through the options of all tables.
enum class Proposer {
  grid_search,                           // every combination, where there are few
  greedy_by_longest,                     // the fastest option of each table by its longest shard; then less memory, largest first
  greedy_by_sum,                         // the same by the sum over shards
  uniform,                               // one kind for all tables
  dynamic_programming,                   // the least sum of seconds for every sum of bytes
  falling_limit,                         // the least sum of seconds with no shard longer than a limit, for ever lower limits
};

/// The options of each table, and the best proposal of those tried.
class PlanSearch {
 public:
  /// Errors: PlanError for a table without options.
  PlanSearch(const std::vector<std::vector<PlanOption>>& space, const TopologyFacts& facts, std::int64_t capacity)
      : space_(space), facts_(facts), capacity_(capacity), partitioner_(facts, capacity), proposal_(space.size()) {
    for (std::size_t t = 0; t < space.size(); ++t) check<PlanError>(!space[t].empty(), "PlanSearch: no options for table number ", t);
  }

  const std::vector<std::vector<PlanOption>>& space() const { return space_; }
  std::int64_t capacity() const { return capacity_; }
  const TopologyFacts& facts() const { return facts_; }

  /// Gives the proposals to come so many steps of placing; see Partitioner::steps.
  void allow(std::int64_t steps) { last_step_ = partitioner_.steps() + steps; }
  /// Places a proposal, an option of each table, and keeps it if it fits and no other is as fast. False when the steps are used up.
  bool consider(std::span<const std::size_t> choice) {
    if (partitioner_.steps() >= last_step_) return false;
    ++proposals_;
    double seconds = 0, longest = 0, bytes = 0;
    for (std::size_t t = 0; t < space_.size(); ++t) {
      const auto& option = space_[t][choice[t]];
      proposal_[t] = &option;
      seconds += option.seconds;
      longest = std::max(longest, option.longest);
      bytes += static_cast<double>(option.bytes);
    }
    if (bytes > static_cast<double>(capacity_) * facts_.world_size) return true;
    if (best_ && std::max(longest, seconds / facts_.world_size) >= best_->rating) return true;
    keep(partitioner_.partition(proposal_), choice);
    return true;
  }
  /// Places of each table the option that takes least memory, of those whose shards take `largest` bytes at most, so that bytes are
  /// even over ranks.
  void consider_least_memory(std::int64_t largest) {
    std::vector<std::size_t> choice(space_.size());
    const auto cost = [&](const PlanOption& option) {
      return std::tuple(std::max(option.largest, largest), option.bytes, option.largest);
    };
    for (std::size_t t = 0; t < space_.size(); ++t) {
      const auto least = std::min_element(space_[t].begin(), space_[t].end(),
                                          [&](const auto& a, const auto& b) { return cost(a) < cost(b); });
      choice[t] = static_cast<std::size_t>(least - space_[t].begin());
    }
    consider(choice);
    ++proposals_;
    keep(Partitioner(facts_, capacity_, Balance::bytes).partition(proposal_), choice);
  }
  /// Places the best proposal again with less memory, as long as it is slower by a share of `tolerance` at most.
  void balance_memory(double tolerance) {
    if (!best_) return;
    for (std::size_t t = 0; t < space_.size(); ++t) proposal_[t] = &space_[t][choice_[t]];
    const double slowest = best_->rating * (1 + tolerance);
    const auto total = std::accumulate(best_->bytes.begin(), best_->bytes.end(), std::int64_t{0});
    BinarySearch saved{0, std::max<std::int64_t>(0, *std::max_element(best_->bytes.begin(), best_->bytes.end()) -
                                                        total / facts_.world_size)};
    saved.tolerance = std::max<std::int64_t>(1, saved.high / 1000);
    const auto largest = *std::max_element(best_->bytes.begin(), best_->bytes.end());
    while (!saved.done()) {
      partitioner_.limit(largest - saved.probe());
      const auto& found = partitioner_.partition(proposal_);
      const bool better = found.fits && found.rating <= slowest;
      if (better) best_ = found;
      saved.tell(better);
    }
    partitioner_.limit(capacity_);
  }

  /// Nothing while no proposal fits.
  const std::optional<Partition>& best() const { return best_; }
  /// The options of the best proposal.
  std::span<const std::size_t> choice() const { return choice_; }
  /// Proposals seen.
  std::int64_t proposals() const { return proposals_; }

 private:
  void keep(const Partition& found, std::span<const std::size_t> choice) {
    if (!found.fits || (best_ && found.rating >= best_->rating)) return;
    best_ = found;
    choice_.assign(choice.begin(), choice.end());
  }

  const std::vector<std::vector<PlanOption>>& space_;
  const TopologyFacts& facts_;
  std::int64_t capacity_;
  Partitioner partitioner_;
  std::vector<const PlanOption*> proposal_;
  std::optional<Partition> best_;
  std::vector<std::size_t> choice_;
  std::int64_t proposals_ = 0, last_step_ = std::numeric_limits<std::int64_t>::max();
};

/// The fastest option of each table; then, one table at a time, the next for the one whose largest shard is largest.
inline void propose_greedily(PlanSearch& search, bool by_sum, std::int64_t most) {
  const auto& space = search.space();
  std::vector<std::vector<std::size_t>> order(space.size());     // of options, the fastest first
  for (std::size_t t = 0; t < space.size(); ++t) {
    order[t].resize(space[t].size());
    std::iota(order[t].begin(), order[t].end(), std::size_t{0});
    std::stable_sort(order[t].begin(), order[t].end(), [&](std::size_t a, std::size_t b) {
      return by_sum ? space[t][a].seconds < space[t][b].seconds : space[t][a].longest < space[t][b].longest;
    });
  }
  std::vector<std::size_t> next(space.size()), choice(space.size());
  using Entry = std::tuple<std::int64_t, std::int64_t, std::size_t>;   // largest shard, all bytes, the table from behind
  std::vector<Entry> larger;                                           // a heap of tables that have another option
  const auto offer = [&](std::size_t t) {
    const auto& option = space[t][choice[t] = order[t][next[t]]];
    if (next[t] + 1 == order[t].size()) return;
    larger.emplace_back(option.largest, option.bytes, space.size() - t);
    std::push_heap(larger.begin(), larger.end());
  };
  for (std::size_t t = 0; t < space.size(); ++t) offer(t);
  for (std::int64_t tried = 0; tried < most; ++tried) {
    if (!search.consider(choice) || larger.empty()) return;
    std::pop_heap(larger.begin(), larger.end());
    const auto t = space.size() - std::get<2>(larger.back());
    larger.pop_back();
    ++next[t];
    offer(t);
  }
}

/// One kind for all tables, for every kind that all of them allow.
inline void propose_uniformly(PlanSearch& search) {
  for (std::size_t kind = 0; kind < sharding_kind_names.size(); ++kind) {
    std::vector<std::size_t> choice;
    for (const auto& options : search.space()) {
      const auto found =
          std::find_if(options.begin(), options.end(), [&](const auto& option) { return option.kind == static_cast<ShardingKind>(kind); });
      if (found == options.end()) break;
      choice.push_back(static_cast<std::size_t>(found - options.begin()));
    }
    if (choice.size() == search.space().size()) search.consider(choice);
  }
}

/// The least sum of seconds with no shard longer than a limit, which falls by a tenth until no table has an option that is shorter.
inline void propose_with_falling_limit(PlanSearch& search) {
  const auto& space = search.space();
  double limit = 0;
  for (const auto& options : space)
    for (const auto& option : options) limit = std::max(limit, option.longest);
  std::vector<std::size_t> choice(space.size());
  for (bool shorter = limit > 0; shorter; limit *= .9) {
    shorter = false;
    for (std::size_t t = 0; t < space.size(); ++t) {
      const auto cost = [&](const PlanOption& option) { return std::tuple(std::max(option.longest, limit), option.seconds); };
      const auto best = std::min_element(space[t].begin(), space[t].end(), [&](const auto& a, const auto& b) { return cost(a) < cost(b); });
      choice[t] = static_cast<std::size_t>(best - space[t].begin());
      shorter |= best->longest > 0 && best->longest <= limit;
    }
    if (!search.consider(choice)) return;
  }
}

/// The least memory: tables in ever smaller parts, until `enough` says so.
template <class Enough> void propose_least_memory(PlanSearch& search, Enough&& enough) {
  for (std::int64_t parts = 1; parts <= 1024 && !enough(); parts *= 2) search.consider_least_memory(search.capacity() / parts);
}

/// Every combination, unless there are more than `most`.
inline void propose_all(PlanSearch& search, std::int64_t most) {
  std::int64_t combinations = 1;
  for (const auto& options : search.space())
    if ((combinations *= static_cast<std::int64_t>(options.size())) > most) return;
  std::vector<std::size_t> choice(search.space().size());
  for (std::int64_t i = 0; i < combinations; ++i) {
    if (!search.consider(choice)) return;
    for (std::size_t t = choice.size(); t-- > 0; choice[t] = 0)
      if (++choice[t] < search.space()[t].size()) break;
  }
}

/// The least sum of seconds for every sum of bytes, counted in `bins` steps of all ranks' memory; the fastest are tried first.
/// Cost: tables x options x bins, and 8 bytes of memory for each table and bin.
inline void propose_by_dynamic_programming(PlanSearch& search, std::size_t bins, std::int64_t most) {
  const auto& space = search.space();
  if (space.empty() || search.capacity() <= 0) return;
  constexpr double never = std::numeric_limits<double>::infinity();
  const double bin = static_cast<double>(search.capacity()) * search.facts().world_size / static_cast<double>(bins);
  struct Sum {
    double seconds = never, bytes = 0;   // bytes in bins, before they are cut to a whole number
  };
  struct Step {
    std::uint32_t option = 0, from = 0;
  };
  const auto states = bins + 1;
  std::vector<Sum> sums(states), before(states);
  std::vector<Step> steps(space.size() * states);
  before[0].seconds = 0;
  for (std::size_t t = 0; t < space.size(); ++t) {
    std::fill(sums.begin(), sums.end(), Sum{});
    for (std::size_t o = 0; o < space[t].size(); ++o) {
      const double bytes = static_cast<double>(space[t][o].bytes) / bin, seconds = space[t][o].seconds;
      for (std::size_t b = 0; b < states; ++b) {
        if (before[b].seconds == never) continue;
        const double total = before[b].bytes + bytes;
        if (total > static_cast<double>(bins)) continue;
        auto& sum = sums[static_cast<std::size_t>(total)];
        if (before[b].seconds + seconds >= sum.seconds) continue;
        sum = {before[b].seconds + seconds, total};
        steps[t * states + static_cast<std::size_t>(total)] = {static_cast<std::uint32_t>(o), static_cast<std::uint32_t>(b)};
      }
    }
    std::swap(sums, before);
  }
  std::vector<std::size_t> ends;         // that are faster than all that take less memory, the fastest last
  for (std::size_t b = 0; b < states; ++b)
    if (before[b].seconds < (ends.empty() ? never : before[ends.back()].seconds)) ends.push_back(b);
  std::vector<std::size_t> choice(space.size());
  for (; !ends.empty() && most > 0; ends.pop_back(), --most) {
    auto b = ends.back();
    for (std::size_t t = space.size(); t-- > 0;) {
      const auto& step = steps[t * states + b];
      choice[t] = step.option;
      b = step.from;
    }
    if (!search.consider(choice)) return;
  }
}

}  // namespace rookery
