// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The ids of a step to the shards that hold their rows: one exchange of counts and one of ids for all lookups of a batch.
//
// A rank asks a shard for the sums of its bags, or for rows, each once, which it gives to its ids itself: always where rows are
// wanted one by one, and for pooled lookups where that moves fewer bytes. A topology of one process reads the batch where it lies.
// Answers to torchrec/distributed input_dist and use_index_dedup.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/kernels/cpu/transpose.hpp>
#include <rookery/sharding/capture.hpp>
#include <rookery/sharding/routing.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery::detail {

/// The ids of a slot whose rows a shard holds, counted from the shard's first row. Under managed collision ids stay as they are.
struct Bucket {
  std::vector<std::int64_t> offsets{0}, ids, positions;      // [bags + 1], [n], [n] which of the slot's ids these are, by rows
  std::vector<double> weights;                               // [n] where there are any

  std::int64_t bags() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
};

/// Whether a route's ids are read where they lie in the batch: its shard is on this rank and has all rows.
inline bool is_read_here(const Routing& routing, std::size_t r) {
  return routing.has_all_rows(routing.routes[r]) && routing.stays(r, static_cast<std::size_t>(routing.self));
}

/// Whether a rank sends words by a route.
inline bool sends_words(const Routing& routing, std::size_t rank, std::size_t r) {
  return routing.asks(rank, r) && !(static_cast<int>(rank) == routing.self && is_read_here(routing, r));
}

/// What a route that is read here is asked for.
inline Bags read_here(const Routing& routing, Capture& capture, std::size_t r) {
  auto bags = capture.own[routing.routes[r].slot];
  bags.rows = capture.by_rows[routing.lookup_of(r)];
  capture.requests[r].vectors = bags.rows ? bags.count() : bags.bags;
  return bags;
}

/// Sorts the ids of a slot into the buckets of routes whose shards have the same columns, in one pass.
inline void sort_into_buckets(const Routing& routing, const Capture& capture, const std::vector<std::size_t>& group,
                              std::vector<Bucket>& buckets) {
  const auto& route = routing.routes[group.front()];
  const auto& bags = capture.own[route.slot];
  const auto& table = routing.table_of(route).description;
  const auto& managed = table.managed_collision;
  const auto block = table.row_block();
  const bool by_rows = capture.by_rows[routing.lookup_of(group.front())];
  std::vector<std::int64_t> begins, ends;                    // rows of each shard
  for (const auto r : group) {
    begins.push_back(routing.shard_of(routing.routes[r]).box.row_begin);
    ends.push_back(routing.shard_of(routing.routes[r]).box.row_end);
    buckets[r].offsets.reserve(static_cast<std::size_t>(bags.bags) + 1);
    buckets[r].ids.reserve(static_cast<std::size_t>(bags.count()) / group.size());
  }
  for (std::int64_t b = 0; b < bags.bags; ++b) {
    for (auto i = bags.offsets[b] - bags.offsets[0]; i < bags.offsets[b + 1] - bags.offsets[0]; ++i) {
      const auto row = managed ? managed.bucket_of(bags.ids[i]) * block : bags.ids[i];
      const auto k = static_cast<std::size_t>(std::upper_bound(begins.begin(), begins.end(), row) - begins.begin());
      if (k == 0 || row >= ends[k - 1]) continue;
      auto& found = buckets[group[k - 1]];
      found.ids.push_back(managed ? bags.ids[i] : row - begins[k - 1]);
      if (bags.weights) found.weights.push_back(bags.weights[i]);
      if (by_rows) found.positions.push_back(i);
    }
    for (const auto r : group) buckets[r].offsets.push_back(static_cast<std::int64_t>(buckets[r].ids.size()));
  }
}

/// All ids of a slot, for a shard that has all rows.
inline Bucket whole_bucket(const Bags& bags, bool by_rows) {
  Bucket all;
  all.offsets.resize(static_cast<std::size_t>(bags.bags) + 1);
  for (std::int64_t b = 1; b <= bags.bags; ++b) all.offsets[static_cast<std::size_t>(b)] = bags.offsets[b] - bags.offsets[0];
  all.ids.assign(bags.ids, bags.ids + bags.count());
  if (bags.weights) all.weights.assign(bags.weights, bags.weights + bags.count());
  if (by_rows) {
    all.positions.resize(all.ids.size());
    std::iota(all.positions.begin(), all.positions.end(), std::int64_t{0});
  }
  return all;
}

/// The ids of all slots, a bucket a route.
inline std::vector<Bucket> sort_into_buckets(const Routing& routing, const Capture& capture) {
  std::vector<Bucket> buckets(routing.routes.size());
  for (const auto& group : routing.row_groups) {
    const auto r = group.front();
    if (is_read_here(routing, r)) continue;
    const auto& route = routing.routes[r];
    if (routing.has_all_rows(route)) buckets[r] = whole_bucket(capture.own[route.slot], capture.by_rows[routing.lookup_of(r)]);
    else sort_into_buckets(routing, capture, group, buckets);
  }
  return buckets;
}

/// Words of 8 bytes that ask for sums: offsets [bags + 1], ids [n], weights [n] where there are any.
inline std::int64_t words_for_sums(std::int64_t bags, std::int64_t ids, bool weighted) { return bags + 1 + ids * (weighted ? 2 : 1); }
/// Words that ask for rows: 0, n, rows [n]. They are read as one bag of n ids.
inline std::int64_t words_for_rows(std::int64_t rows) { return 2 + rows; }

/// In place of a number of bags: rows are asked for.
inline constexpr std::int64_t asks_for_rows = -1;

/// What was asked for, read from its words.
inline Bags read_request(const std::int64_t* words, std::int64_t bags, std::int64_t ids, bool weighted) {
  if (bags == asks_for_rows) return {.ids = words + 2, .offsets = words, .bags = 1, .rows = true};
  Bags read{.ids = words + bags + 1, .offsets = words, .bags = bags};
  if (weighted) read.weights = reinterpret_cast<const double*>(read.ids + ids);
  return read;
}
inline std::int64_t request_words(std::int64_t bags, std::int64_t ids, bool weighted) {
  return bags == asks_for_rows ? words_for_rows(ids) : words_for_sums(bags, ids, weighted);
}

/// Whether a rank may ask for a route's rows instead of sums: not where ids are counted, or sums are added up on their way.
inline bool may_ask_for_rows(const Routing& routing, std::size_t r) {
  const auto& route = routing.routes[r];
  return routing.exchange.pooled != PooledExchange::partial_sums && routing.shard_of(route).rank != routing.self &&
         !routing.table_of(route).description.managed_collision && routing.relays[r].empty();
}

/// Whether unique rows are fewer bytes than sums, there and back, and back again for gradients.
inline bool are_rows_fewer(const Routing& routing, std::size_t r, const Bucket& bucket, std::int64_t unique, bool capturing) {
  const auto& route = routing.routes[r];
  const auto bytes = [&](std::int64_t vectors, std::int64_t words, bool rows) {
    const auto of_number = c10::elementSize(routing.value_dtype(route, rows)) + capturing * c10::elementSize(routing.gradient_dtype(route));
    return vectors * routing.shard_of(route).box.columns() * static_cast<std::int64_t>(of_number) + 8 * words;
  };
  const auto ids = static_cast<std::int64_t>(bucket.ids.size());
  return bytes(unique, words_for_rows(unique), true) <
         bytes(bucket.bags(), words_for_sums(bucket.bags(), ids, !bucket.weights.empty()), false);
}

inline void append_words(std::vector<std::int64_t>& words, const std::vector<std::int64_t>& more) {
  words.insert(words.end(), more.begin(), more.end());
}

/// Each id as a row of its own.
inline kernels::Transposed each_once(std::vector<std::int64_t> ids) {
  kernels::Transposed all{.rows = std::move(ids), .starts = {}, .order = {}};
  all.starts.resize(all.rows.size() + 1);
  all.order.resize(all.rows.size());
  std::iota(all.starts.begin(), all.starts.end(), std::int64_t{0});
  std::iota(all.order.begin(), all.order.end(), std::int64_t{0});
  return all;
}

/// Asks a route for what a bucket of this rank needs of it: writes the words, and notes in the capture what will come back.
/// The counts are bags and ids.
inline std::pair<std::int64_t, std::int64_t> ask(const Routing& routing, Capture& capture, std::size_t r, Bucket found, bool capturing,
                                                 std::vector<std::int64_t>& words) {
  auto& request = capture.requests[r];
  const bool by_rows = capture.by_rows[routing.lookup_of(r)];
  const auto ids = static_cast<std::int64_t>(found.ids.size());
  constexpr std::int64_t most_ids_a_bag = 4;                 // with more, unique rows have next to never been fewer
  const bool always = routing.exchange.pooled == PooledExchange::unique_rows;
  const bool may = may_ask_for_rows(routing, r) && (by_rows || always || ids <= most_ids_a_bag * found.bags());
  if (may) request.repeats = kernels::transpose(found.ids);
  const auto unique = static_cast<std::int64_t>(request.repeats.rows.size());
  request.rows = by_rows || (may && (always || are_rows_fewer(routing, r, found, unique, capturing)));
  if (!request.rows) {
    request.repeats = {};
    request.vectors = routing.gateway(r, static_cast<std::size_t>(routing.self)) == r ? found.bags() : 0;
    append_words(words, found.offsets);
    append_words(words, found.ids);
    for (const auto weight : found.weights) words.push_back(std::bit_cast<std::int64_t>(weight));
    return {found.bags(), ids};
  }
  std::vector<std::int64_t> row_of(found.ids.size());        // which of the rows each id has
  if (!may) request.repeats = each_once(std::move(found.ids));
  const auto& repeats = request.repeats;
  request.vectors = static_cast<std::int64_t>(repeats.rows.size());
  for (std::size_t u = 0; u < repeats.rows.size(); ++u)
    for (auto i = repeats.starts[u]; i < repeats.starts[u + 1]; ++i)
      row_of[static_cast<std::size_t>(repeats.order[static_cast<std::size_t>(i)])] = static_cast<std::int64_t>(u);
  request.bags = {.ids = capture.keep(row_of), .offsets = capture.keep(found.offsets), .bags = found.bags()};
  if (!found.weights.empty()) request.bags.weights = capture.keep(found.weights);
  request.positions = std::move(found.positions);
  words.push_back(0);
  words.push_back(request.vectors);
  append_words(words, repeats.rows);
  return {asks_for_rows, request.vectors};
}

/// Ids on one process: read where they lie if the shard has all rows.
inline void route_ids_here(const Routing& routing, Capture& capture, bool capturing) {
  auto buckets = sort_into_buckets(routing, capture);
  for (const auto r : routing.routes_of[0]) {
    if (is_read_here(routing, r)) {
      capture.routed.push_back({read_here(routing, capture, r)});
      continue;
    }
    std::vector<std::int64_t> words;
    const auto [bags, ids] = ask(routing, capture, r, std::move(buckets[r]), capturing, words);
    capture.routed.push_back({read_request(capture.keep(words), bags, ids, capture.own[routing.routes[r].slot].weights != nullptr)});
  }
}

/// Bytes of the rows, with their gradients, that this rank's ids name in tables that have a copy on every rank.
inline std::int64_t replica_bytes(const Routing& routing, const Capture& capture) {
  std::int64_t bytes = 0;
  for (const auto& asked : routing.asked) {
    const auto& table = routing.tables[asked.table].description;
    if (!routing.tables[asked.table].is_replicated || table.frozen) continue;
    std::vector<std::int64_t> ids;
    for (const auto i : asked.routes) {
      const auto& bags = capture.own[routing.routes[routing.routes_of[static_cast<std::size_t>(routing.self)][i]].slot];
      ids.insert(ids.end(), bags.ids, bags.ids + bags.count());
    }
    bytes += static_cast<std::int64_t>(kernels::transpose(ids).rows.size()) * replica_row_bytes(table);
  }
  return bytes;
}

/// Ids for the ranks that hold their rows: counts, so that a rank knows what comes, and words.
/// Counts for a rank are: capturing, bytes of replicas, then bags and ids of each route by which it is sent words.
struct IdMessage {
  at::Tensor counts, words;                                  // [sum(counts_out)], [sum(words_out)]
  Counts counts_out, counts_in, words_out;
};

inline IdMessage pack_ids(const Routing& routing, Capture& capture, std::size_t self, bool capturing) {
  IdMessage message;
  std::vector<std::int64_t> counts, words;
  auto buckets = sort_into_buckets(routing, capture);
  std::size_t most_words = 0;
  for (const auto& one : buckets) most_words += one.offsets.size() + 1 + one.ids.size() + one.weights.size();
  words.reserve(most_words);
  const auto of_replicas = capturing ? replica_bytes(routing, capture) : 0;
  for (std::size_t peer = 0; peer < routing.routes_of.size(); ++peer) {
    const auto &theirs = routing.routes_of[peer], &mine = routing.routes_of[self];
    const auto before = words.size();
    counts.push_back(capturing);
    counts.push_back(of_replicas);
    for (const auto r : theirs) {
      if (!sends_words(routing, self, r)) continue;
      const auto [bags, ids] = ask(routing, capture, r, std::move(buckets[r]), capturing, words);
      counts.push_back(bags);
      counts.push_back(ids);
    }
    const auto routes_with_words = [&](std::size_t from, const std::vector<std::size_t>& routes) {
      return std::count_if(routes.begin(), routes.end(), [&](std::size_t r) { return sends_words(routing, from, r); });
    };
    message.counts_out.push_back(2 + 2 * routes_with_words(self, theirs));
    message.counts_in.push_back(2 + 2 * routes_with_words(peer, mine));
    message.words_out.push_back(static_cast<std::int64_t>(words.size() - before));
  }
  message.counts = host_tensor(counts);
  message.words = host_tensor(words);
  return message;
}

/// Words that come from each rank. Errors: Error when ranks disagree about capturing.
inline Counts words_to_come(const Routing& routing, std::size_t self, bool capturing, const at::Tensor& counts) {
  const auto& mine = routing.routes_of[self];
  const auto* count = counts.const_data_ptr<std::int64_t>();
  Counts words(routing.routes_of.size());
  for (std::size_t from = 0; from < words.size(); ++from) {
    check<Error>(*count == static_cast<std::int64_t>(capturing), "rank ", capturing ? self : from, " trains and rank ",
                 capturing ? from : self, " does not: predict(), train(false) and NoGradGuard are for all ranks or none");
    count += 2;
    for (const auto r : mine) {
      if (!sends_words(routing, from, r)) continue;
      words[from] += request_words(count[0], count[1], routing.layout_of(routing.routes[r]).is_weighted);
      count += 2;
    }
  }
  return words;
}

/// Fills `routed` from the words that came.
inline void read_ids(const Routing& routing, Capture& capture, std::size_t self, const at::Tensor& counts, at::Tensor words) {
  const auto& mine = routing.routes_of[self];
  const auto* count = counts.const_data_ptr<std::int64_t>();
  const auto* word = words.const_data_ptr<std::int64_t>();
  capture.routed.resize(mine.size());
  for (std::size_t from = 0; from < routing.routes_of.size(); ++from) {
    capture.replica_bytes += count[1];
    count += 2;
    for (std::size_t i = 0; i < mine.size(); ++i) {
      auto& bags = capture.routed[i].emplace_back();
      if (from == self && is_read_here(routing, mine[i])) bags = read_here(routing, capture, mine[i]);
      if (!sends_words(routing, from, mine[i])) continue;
      const bool weighted = routing.layout_of(routing.routes[mine[i]]).is_weighted;
      bags = read_request(word, count[0], count[1], weighted);
      word += request_words(count[0], count[1], weighted);
      count += 2;
    }
  }
  capture.alive.push_back(std::move(words));
}

/// Turns the ids that came into rows, where the shard they came to has a vocabulary.
inline void give_rows(const Routing& routing, Capture& capture, std::size_t self) {
  const auto& mine = routing.routes_of[self];
  capture.raw.resize(mine.size());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const auto& vocabulary = routing.shard_of(routing.routes[mine[i]]).local->vocabulary;
    if (!vocabulary) continue;
    capture.raw[i] = capture.routed[i];
    for (auto& bags : capture.routed[i]) {
      std::vector<std::int64_t> rows;
      for (std::int64_t k = 0; k < bags.count(); ++k) rows.push_back(vocabulary.row_of(bags.ids[k]));
      bags.ids = capture.keep(rows);
    }
  }
}

/// What this rank asks of all shards, on its way. `capturing` must be the same on all ranks.
template <class Topology> class IdExchange {
 public:
  /// Sends the counts of what the capture's own bags ask for. Ranks: all, in the same order.
  void send_counts(Topology& topology, const Routing& routing, Capture& capture, bool capturing) {
    capturing_ = capturing;
    if constexpr (Topology::is_distributed) {
      message_ = pack_ids(routing, capture, static_cast<std::size_t>(topology.rank()), capturing);
      under_way_.emplace(all_to_all_v(topology, std::move(message_.counts), message_.counts_out, message_.counts_in));
    }
  }
  /// Sends the ids, once the counts have come; does nothing where they have left. Ranks: all, in the same order.
  void send_ids(Topology& topology, const Routing& routing) {
    if constexpr (Topology::is_distributed) {
      if (counts_.defined()) return;
      counts_ = under_way_->wait();                                                          // [sum(counts_in)]
      const auto words_in = words_to_come(routing, static_cast<std::size_t>(topology.rank()), capturing_, counts_);
      under_way_.emplace(all_to_all_v(topology, std::move(message_.words), message_.words_out, words_in));
    }
  }
  /// Waits for the ids of all ranks; fills the capture's `requests` and `routed`. Ranks: all, in the same order.
  void receive(Topology& topology, const Routing& routing, Capture& capture) {
    const auto self = static_cast<std::size_t>(topology.rank());
    if constexpr (Topology::is_distributed) {
      send_ids(topology, routing);
      read_ids(routing, capture, self, counts_, under_way_->wait());
    } else {
      route_ids_here(routing, capture, capturing_);
    }
    give_rows(routing, capture, self);
  }

 private:
  using Handle = decltype(all_to_all_v(std::declval<Topology&>(), at::Tensor{}, Counts{}, Counts{}));
  IdMessage message_;
  at::Tensor counts_;                        // [sum(counts_in)] once they have come
  std::optional<Handle> under_way_;          // counts, then ids
  bool capturing_ = false;
};

}  // namespace rookery::detail
