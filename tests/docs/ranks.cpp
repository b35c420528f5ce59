// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The samples of docs/ranks.md, each in the place of the comment with its heading, compile.

#include <rookery/optim/overlap.hpp>
#include <rookery/planner/plan_json.hpp>
#include <rookery/planner/planner.hpp>
#include <rookery/rookery.hpp>
#include <rookery/topology/calibrate.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/mpi.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/train/batches.hpp>
#include <rookery/train/pipeline.hpp>

#include <chrono>
#include <cstdio>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

namespace {

namespace rk = rookery;
using Rules = rk::Rules<rk::RowwiseAdagrad>;

struct Clicks {
  at::Tensor labels;                                           // [B]
  rk::KeyedJaggedTensor ids;
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() { return rk::members("labels", &Clicks::labels, "ids", &Clicks::ids); }
};
struct Reader {
  std::vector<Clicks> left{};
  std::optional<Clicks> next() {
    if (left.empty()) return {};
    std::optional<Clicks> last(std::move(left.back()));
    left.pop_back();
    return last;
  }
};
struct Output {
  at::Tensor logits;                                           // [B]
};
struct Ranker {
  rk::EmbeddingBagCollection<Rules> tables;
  rk::Mlp over;
  static constexpr auto members() { return rk::members("tables", &Ranker::tables, "over", &Ranker::over); }
  auto lookups(const Clicks& b) const { return rk::lookups(rk::lookup<&Ranker::tables>(b.ids)); }
  Output forward(const Clicks&, const auto& pooled) { return {over(get<&Ranker::tables>(pooled).values()).squeeze(1)}; }
};
rk::ModelAndLoss<Ranker, rk::Bce, Clicks> declared() {
  return {{{{.name = "user_id", .num_embeddings = 1000, .embedding_dim = 8}, {.name = "item_id", .num_embeddings = 100, .embedding_dim = 8}},
           {16, {1}}},
          {}};
}
template <class Topology> int train(Topology& topology) { return topology.rank() < topology.world_size() ? 0 : 1; }

}  // namespace

template <class Topology> void place(Topology& topology) {
  {
    // docs: Plan JSON
  }
  {
    // docs: calibrate
  }
  {
    // docs: Quantised exchange
  }
  {
    // docs: Hierarchical exchange
  }
  {
    // docs: BufferPolicy
  }
}

template <class Topology> void optimize(Topology& topology) {
  auto model = rk::maybe_shard_model(declared(), topology);
  {
    // docs: Buckets
  }
  {
    // docs: Overlap
  }
  {
    // docs: Pipelined loops
  }
  {
    // docs: GradientDivision
  }
}

void without_ranks() {
  // docs: plan_tables
}

void checked() {
  // docs: Fingerprint: ROOKERY_CHECK=communicating
}

void in_time() {
  // docs: Faults and deadlines
}

template void place(rk::Threads&);
template void optimize(rk::Threads&);

// docs: Starting ranks
