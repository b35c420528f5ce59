// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Partitioner: gives the blocks of one option a table their ranks, each where the load is least and its bytes fit.
//
// What has no choice comes first; then tables by falling bytes. Of ranks with as much load the first of each node comes before the
// second of any. Answers to torchrec/distributed/planner/partitioners.py.  Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <rookery/planner/enumerate.hpp>
#include <rookery/topology/facts.hpp>

namespace rookery {

/// Where blocks lie. `places` are in the order of the options, a block each: a rank, or the node of ranks; -1 for all ranks.
struct Partition {
  bool fits = false;
  std::size_t stuck = 0;                 // the option that no place was left for, when it does not fit
  double rating = 0;                     // seconds of the slowest rank
  std::vector<int> places;
  std::vector<double> seconds;           // of each rank
  std::vector<std::int64_t> bytes;
};

/// What is kept even over ranks.
enum class Balance { seconds, bytes };

namespace detail {

/// The rank of least load, found in the time of a few comparisons.
class LeastLoaded {
 public:
  LeastLoaded(int ranks, int ranks_per_node) : ranks_(ranks), local_(ranks_per_node) {
    while (leaves_ < ranks) leaves_ *= 2;
    load_.resize(static_cast<std::size_t>(2 * leaves_));
  }
  void reset(const std::vector<double>& load) {
    std::fill(load_.begin(), load_.end(), none);
    for (int rank = 0; rank < ranks_; ++rank) load_[leaf(rank)] = load[static_cast<std::size_t>(rank)];
    for (auto i = static_cast<std::size_t>(leaves_); --i > 0;) load_[i] = std::min(load_[2 * i], load_[2 * i + 1]);
  }
  void set(int rank, double load) {
    auto i = leaf(rank);
    load_[i] = load;
    while (i /= 2) load_[i] = std::min(load_[2 * i], load_[2 * i + 1]);
  }
  /// -1 when every rank is left out.
  int best() const {
    if (load_[1] == none) return -1;
    std::size_t i = 1;
    while (i < static_cast<std::size_t>(leaves_)) i = load_[2 * i] == load_[i] ? 2 * i : 2 * i + 1;
    const auto place = static_cast<int>(i) - leaves_;
    return place % (ranks_ / local_) * local_ + place / (ranks_ / local_);
  }
  void leave_out(int rank) { set(rank, none); }

 private:
  static constexpr double none = std::numeric_limits<double>::infinity();
  std::size_t leaf(int rank) const { return static_cast<std::size_t>(leaves_ + rank % local_ * (ranks_ / local_) + rank / local_); }

  int ranks_, local_, leaves_ = 1;
  std::vector<double> load_;             // a tree of minima
};

}  // namespace detail

/// Places one proposal after another; what it allocates it keeps.
class Partitioner {
 public:
  Partitioner(const TopologyFacts& facts, std::int64_t capacity, Balance balance = Balance::seconds)
      : facts_(facts), local_(facts.ranks_per_node()), capacity_(capacity), balance_(balance), tree_(facts.world_size, local_) {}

  void limit(std::int64_t capacity) { capacity_ = capacity; }
  /// Steps that partitions took so far, of some nanoseconds each: a clock that is the same on every machine.
  std::int64_t steps() const { return steps_; }

  /// Cost: about blocks x log(ranks), and nodes for each block that takes one.
  const Partition& partition(std::span<const PlanOption* const> proposal) {
    const auto ranks = static_cast<std::size_t>(facts_.world_size);
    steps_ += 4 * facts_.world_size;
    found_.fits = true;
    found_.seconds.assign(ranks, 0);
    found_.bytes.assign(ranks, 0);
    first_.resize(proposal.size());
    std::size_t blocks = 0;
    for (std::size_t i = 0; i < proposal.size(); blocks += proposal[i++]->blocks.size()) first_[i] = blocks;
    found_.places.assign(blocks, -1);
    put_everywhere(proposal);
    for (std::size_t rank = 0; rank < ranks && found_.fits; ++rank) found_.fits = found_.bytes[rank] <= capacity_;
    order_.clear();
    for (std::size_t i = 0; i < proposal.size(); ++i)
      if (proposal[i]->place != PlanOption::Place::all) order_.push_back(i);
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      const bool given = proposal[a]->ranks.empty(), other = proposal[b]->ranks.empty();
      return given != other ? !given : proposal[a]->bytes > proposal[b]->bytes;
    });
    start();
    for (const auto i : order_) {
      if (!found_.fits) break;
      found_.fits = put(*proposal[i], found_.places.data() + first_[i]);
      if (!found_.fits) found_.stuck = i;
    }
    found_.rating = *std::max_element(found_.seconds.begin(), found_.seconds.end());
    return found_;
  }

 private:
  double load(std::size_t rank) const {
    return balance_ == Balance::seconds ? found_.seconds[rank] : static_cast<double>(found_.bytes[rank]);
  }
  void start() {
    loads_.resize(found_.seconds.size());
    for (std::size_t rank = 0; rank < loads_.size(); ++rank) loads_[rank] = load(rank);
    tree_.reset(loads_);
    nodes_.assign(static_cast<std::size_t>(facts_.nodes()), 0);
    for (std::size_t rank = 0; rank < loads_.size(); ++rank) nodes_[rank / static_cast<std::size_t>(local_)] += loads_[rank];
  }
  void add(int rank, double seconds, std::int64_t bytes) {
    steps_ += 16;
    const auto r = static_cast<std::size_t>(rank);
    const double before = load(r);
    found_.seconds[r] += seconds;
    found_.bytes[r] += bytes;
    nodes_[r / static_cast<std::size_t>(local_)] += load(r) - before;
    tree_.set(rank, load(r));
  }
  bool fits(int rank, std::int64_t bytes) const { return found_.bytes[static_cast<std::size_t>(rank)] + bytes <= capacity_; }

  /// Options on all ranks, by the differences from each rank to the next; and on ranks that are given, one by one.
  void put_everywhere(std::span<const PlanOption* const> proposal) {
    change_.assign(found_.seconds.size() + 1, {0, 0});
    for (const auto* option : proposal) {
      if (option->place != PlanOption::Place::all) continue;
      const bool given = option->kind == ShardingKind::row_wise && !option->ranks.empty();
      const auto& block = option->blocks.front();
      std::size_t next = 0;
      for (const auto& run : block.runs) {
        const auto end = next + static_cast<std::size_t>(run.ranks);
        if (!given) {
          change_[next].first += block.seconds, change_[next].second += run.bytes;
          change_[end].first -= block.seconds, change_[end].second -= run.bytes;
        }
        for (auto i = next; given && i < end; ++i) {
          const auto rank = static_cast<std::size_t>(option->ranks[i]);
          found_.seconds[rank] += block.seconds, found_.bytes[rank] += run.bytes;
        }
        next = end;
      }
    }
    double seconds = 0;
    std::int64_t bytes = 0;
    for (std::size_t rank = 0; rank < found_.seconds.size(); ++rank) {
      found_.seconds[rank] += seconds += change_[rank].first;
      found_.bytes[rank] += bytes += change_[rank].second;
    }
  }
  bool put(const PlanOption& option, int* places) {
    if (option.kind == ShardingKind::table_column_wise) return put_columns_on_node(option, places);
    for (std::size_t b = 0; b < option.blocks.size(); ++b) {
      const auto& block = option.blocks[b];
      places[b] = option.place == PlanOption::Place::node ? node_for(option, block) : rank_for(option, block, b);
      if (places[b] < 0) return false;
      int rank = option.place == PlanOption::Place::node ? places[b] * local_ : places[b];
      for (const auto& run : block.runs)
        for (std::int64_t i = 0; i < run.ranks; ++i) add(rank++, block.seconds, run.bytes);
    }
    return true;
  }
  int rank_for(const PlanOption& option, const OptionBlock& block, std::size_t number) {
    const auto bytes = block.runs.front().bytes;
    if (option.kind == ShardingKind::column_wise && !option.ranks.empty()) {
      const int rank = option.ranks[number % option.ranks.size()];
      return fits(rank, bytes) ? rank : -1;
    }
    if (!option.ranks.empty()) return least_of(option.ranks.data(), option.ranks.size(), bytes);
    int rank = tree_.best();
    for (; rank >= 0 && !fits(rank, bytes); rank = tree_.best()) {
      steps_ += 32;
      left_out_.push_back(rank);
      tree_.leave_out(rank);
    }
    for (const int other : left_out_) tree_.set(other, load(static_cast<std::size_t>(other)));
    left_out_.clear();
    return rank;
  }
  int least_of(const int* ranks, std::size_t count, std::int64_t bytes) const {
    int best = -1;
    for (std::size_t i = 0; i < count; ++i)
      if (fits(ranks[i], bytes) && (best < 0 || load(static_cast<std::size_t>(ranks[i])) < load(static_cast<std::size_t>(best))))
        best = ranks[i];
    return best;
  }
  /// The node of least load for which `holds(node)`, or the one that is asked for; -1 for none.
  template <class Holds> int least_node(const PlanOption& option, Holds&& holds) const {
    if (!option.ranks.empty()) {
      const int node = option.ranks.front() / local_;
      return holds(node) ? node : -1;
    }
    int best = -1;
    for (int node = 0; node < facts_.nodes(); ++node)
      if ((best < 0 || nodes_[static_cast<std::size_t>(node)] < nodes_[static_cast<std::size_t>(best)]) && holds(node)) best = node;
    return best;
  }
  int node_for(const PlanOption& option, const OptionBlock& block) {
    steps_ += facts_.nodes();
    return least_node(option, [&](int node) {
      int rank = node * local_;
      for (const auto& run : block.runs)
        for (std::int64_t i = 0; i < run.ranks; ++i)
          if (!fits(rank++, run.bytes)) return false;
      return true;
    });
  }
  /// The columns on the ranks of one node, each where the load is least; undone where they do not fit.
  bool put_columns_on_node(const PlanOption& option, int* places) {
    const auto put_on = [&](int node) {
      const auto ranks = consecutive_ranks(node * local_, local_);
      std::size_t b = 0;
      for (; b < option.blocks.size(); ++b) {
        const auto& block = option.blocks[b];
        places[b] = least_of(ranks.data(), ranks.size(), block.runs.front().bytes);
        if (places[b] < 0) break;
        add(places[b], block.seconds, block.runs.front().bytes);
      }
      if (b == option.blocks.size()) return true;
      while (b-- > 0) add(places[b], -option.blocks[b].seconds, -option.blocks[b].runs.front().bytes);
      return false;
    };
    if (!option.ranks.empty()) return put_on(option.ranks.front() / local_);
    steps_ += 16 * facts_.nodes();
    node_order_.resize(nodes_.size());
    std::iota(node_order_.begin(), node_order_.end(), 0);
    std::stable_sort(node_order_.begin(), node_order_.end(),
                     [&](int a, int b) { return nodes_[static_cast<std::size_t>(a)] < nodes_[static_cast<std::size_t>(b)]; });
    return std::any_of(node_order_.begin(), node_order_.end(), put_on);
  }

  const TopologyFacts& facts_;
  int local_;
  std::int64_t capacity_;
  Balance balance_;
  std::int64_t steps_ = 0;
  detail::LeastLoaded tree_;
  Partition found_;
  std::vector<std::size_t> first_, order_;
  std::vector<std::pair<double, std::int64_t>> change_;
  std::vector<double> loads_, nodes_;    // what is kept even, of ranks and of nodes
  std::vector<int> left_out_, node_order_;
};

/// Numbers between two bounds to try, each the middle of what is left: the largest for which all below it succeed.
struct BinarySearch {
  std::int64_t low = 0, high = 0;        // both included
  std::int64_t tolerance = 0;            // ends when `high` is not as far above `low`

  bool done() const { return high - low < tolerance; }
  std::int64_t probe() const { return low + (high - low) / 2; }
  void tell(bool succeeded) { (succeeded ? low : high) = probe() + (succeeded ? 1 : -1); }
};

}  // namespace rookery
