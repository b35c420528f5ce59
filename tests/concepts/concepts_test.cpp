// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Each concept against the least type that models it, and against types that lack one thing.
#include <rookery/concepts/batch.hpp>
#include <rookery/concepts/communicator.hpp>
#include <rookery/concepts/loss.hpp>
#include <rookery/concepts/model.hpp>
#include <rookery/concepts/rule.hpp>
#include <rookery/concepts/topology.hpp>

#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include <ATen/ops/zeros.h>

#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

// --- Batch
struct Rows {
  std::int64_t size() const { return 0; }
};
struct SmallSize {
  int size() const { return 0; }
};
struct MutableSize {
  std::int64_t size() { return 0; }
};
struct TensorSize {
  at::Tensor size() const { return {}; }
};
struct Pinned : Rows {
  Pinned(Pinned&&) = delete;
};
struct MoveOnly : Rows {
  std::unique_ptr<int> owned;
};
static_assert(concepts::Batch<Rows> && concepts::Batch<SmallSize> && concepts::Batch<MoveOnly> && concepts::Batch<std::vector<int>>);
static_assert(!concepts::Batch<MutableSize> && !concepts::Batch<TensorSize> && !concepts::Batch<Pinned> && !concepts::Batch<int>);

// --- Model
struct Output {
  at::Tensor logits;
};
struct DenseModel {
  static constexpr auto members() { return rookery::members(); }
  Output forward(const Rows&) { return {}; }
};
struct WithoutMembers {
  Output forward(const Rows&) { return {}; }
};
struct WithoutForward {
  static constexpr auto members() { return rookery::members(); }
};
struct OtherBatch {
  static constexpr auto members() { return rookery::members(); }
  Output forward(const std::vector<int>&) { return {}; }
};
struct TableModel {
  cases::Collection tables;
  static constexpr auto members() { return rookery::members("tables", &TableModel::tables); }
  auto lookups(const Rows&) const { return rookery::lookups(rookery::lookup<&TableModel::tables>(cases::features_of({"t"}, {}))); }
  Output forward(const Rows&, const auto& pooled) { return {get<&TableModel::tables>(pooled).values()}; }
};
/// Has lookups, and a forward that does not take what came back.
struct ForgetsPooled {
  cases::Collection tables;
  static constexpr auto members() { return rookery::members("tables", &ForgetsPooled::tables); }
  auto lookups(const Rows&) const { return rookery::lookups(rookery::lookup<&ForgetsPooled::tables>({})); }
  Output forward(const Rows&) { return {}; }
};
static_assert(concepts::Model<DenseModel, Rows> && !concepts::HasLookups<DenseModel, Rows>);
static_assert(concepts::Model<TableModel, Rows> && concepts::HasLookups<TableModel, Rows>);
static_assert(!concepts::Model<WithoutMembers, Rows> && !concepts::Model<WithoutForward, Rows> && !concepts::Model<OtherBatch, Rows> &&
              !concepts::Model<int, Rows>);
static_assert(!concepts::Model<ForgetsPooled, Rows> && concepts::HasForwardOfBatch<ForgetsPooled, Rows>);
static_assert(std::same_as<OutputOf<DenseModel, Rows>, Output> && std::same_as<OutputOf<TableModel, Rows>, Output>);

// --- Loss
struct Sum {
  at::Tensor operator()(const Output&, const Rows&) const { return {}; }
};
struct Mean : Sum {
  at::Tensor normaliser(const Rows&) const { return {}; }
};
struct Undivided : Sum {
  static constexpr bool divides = false;
};
struct SumOfLogits {
  static constexpr bool divides = false;
  at::Tensor operator()(const Output& output, const Rows&) const { return output.logits.sum(); }
};
struct SaysDivides : Sum {
  static constexpr bool divides = true;
};
struct DoubleLoss : Mean {
  double operator()(const Output&, const Rows&) const { return 0; }
};
struct MutableLoss : Mean {
  at::Tensor operator()(const Output&, const Rows&) { return {}; }
};
struct DoubleNormaliser : Sum {
  double normaliser(const Rows&) const { return 1; }
};
static_assert(concepts::Loss<Mean, Output, Rows> && concepts::Loss<Undivided, Output, Rows>);
static_assert(concepts::HasSum<Sum, Output, Rows> && !concepts::HasNormaliser<Sum, Rows> && !concepts::Loss<Sum, Output, Rows>);
static_assert(!concepts::Loss<SaysDivides, Output, Rows> && !concepts::Loss<DoubleNormaliser, Output, Rows>);
static_assert(!concepts::Loss<DoubleLoss, Output, Rows> && !concepts::Loss<MutableLoss, Output, Rows>);
static_assert(!concepts::Loss<Mean, int, Rows> && !concepts::Loss<Mean, Output, std::vector<int>>);

// --- Rule
struct SignSgd {
  double learning_rate = .1;
  static constexpr std::string_view name = "sign_sgd";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>& row, const StepContext&, const double*) const {
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= static_cast<Number>(row.gradient[i] > 0 ? learning_rate : -learning_rate);
  }
};
struct WithoutName {
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>&, const StepContext&, const double*) const {}
};
struct FloatOnly : WithoutName {
  static constexpr std::string_view name = "float_only";
  void update(const Row<float>&, const StepContext&, const double*) const {}
};
struct WithoutSum : WithoutName {
  static constexpr std::string_view name = "without_sum";
  static constexpr int row_sums = 1;
};
struct MutableUpdate : WithoutName {
  static constexpr std::string_view name = "mutable_update";
  template <class Number> void update(const Row<Number>&, const StepContext&, const double*) {}
};
struct WithoutState {
  static constexpr std::string_view name = "without_state";
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>&, const StepContext&, const double*) const {}
};
static_assert(concepts::Rule<Sgd> && concepts::Rule<Adagrad> && concepts::Rule<RowwiseAdagrad> && concepts::Rule<Adam> &&
              concepts::Rule<SignSgd>);
static_assert(!concepts::Rule<WithoutName> && !concepts::Rule<FloatOnly> && !concepts::Rule<WithoutSum> && !concepts::Rule<MutableUpdate>);
static_assert(!concepts::Rule<WithoutState> && !concepts::Rule<int>);

// --- Topology and Communicator
struct Facts {
  static constexpr bool is_distributed = false;
  static constexpr std::string_view name = "facts";
  int rank() const { return 0; }
  int world_size() const { return 1; }
  c10::Device device() const { return c10::Device(c10::DeviceType::CPU); }
};
struct RunTimeDistributed : Facts {
  static constexpr int is_distributed = 0;
};
struct LongRank : Facts {
  long rank() const { return 0; }
};
struct WithoutDevice {
  static constexpr bool is_distributed = false;
  static constexpr std::string_view name = "facts";
  int rank() const { return 0; }
  int world_size() const { return 1; }
};
struct OneVerb : Facts {
  static constexpr bool is_distributed = true;
  Ready<at::Tensor> all_reduce(at::Tensor tensor, ReduceOp) { return {std::move(tensor)}; }
};
/// The least communicator: one rank that gives everything back.
struct Echo : OneVerb {
  Ready<at::Tensor> all_to_all_v(at::Tensor tensor, const Counts&, const Counts&) { return {std::move(tensor)}; }
  Ready<at::Tensor> reduce_scatter_v(at::Tensor tensor, const Counts&) { return {std::move(tensor)}; }
  Ready<std::vector<at::Tensor>> all_gather_v(at::Tensor tensor) { return {{std::move(tensor)}}; }
  Ready<at::Tensor> broadcast(at::Tensor tensor, int) { return {std::move(tensor)}; }
  Ready<bool> barrier() { return {true}; }
  void abort(std::string_view) {}
};
struct TensorBarrier : Echo {
  Ready<at::Tensor> barrier() { return {}; }
};
static_assert(concepts::Topology<Facts> && concepts::Topology<Local> && concepts::Topology<Threads>);
static_assert(!concepts::Topology<RunTimeDistributed> && !concepts::Topology<LongRank> && !concepts::Topology<WithoutDevice> &&
              !concepts::Topology<int>);
static_assert(concepts::Communicator<Threads> && concepts::Communicator<Echo>);
static_assert(!concepts::Communicator<Local> && !concepts::Communicator<Facts> && !concepts::Communicator<OneVerb> &&
              !concepts::Communicator<TensorBarrier>);

}  // namespace

TEST_SUITE("concepts/model") {
  TEST_CASE("a model, a loss and a topology with no more than the concepts ask for train") {
    Echo topology;
    TableModel declared{{{.name = "t", .num_embeddings = 2, .embedding_dim = 2}}};
    auto model = maybe_shard_model(ModelAndLoss<TableModel, SumOfLogits, Rows>{std::move(declared), {}}, topology);
    Optimizer step(model, SignSgd{});
    auto [loss, output] = model({});
    CHECK(output.logits.sizes() == at::IntArrayRef({0, 2}));
    loss.backward();
    step();
    CHECK(step.count() == 1);
  }
}

TEST_SUITE("concepts/rule") {
  TEST_CASE("a rule of the user's own steps tables beside the library's") {
    EmbeddingBagCollection<Rules<Sgd, SignSgd>> tables(
        {{.name = "t", .num_embeddings = 2, .embedding_dim = 2, .optimizer = SignSgd{.learning_rate = .5}}});
    tables.assign("t", at::zeros({2, 2}));
    auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
    Optimizer step(placed, Sgd{});
    placed(cases::features_of({"t"}, {{1, 1}, {1}})).values().sum().backward();
    step();
    const auto& weight = placed.model().shards()[0].storage.weight();
    CHECK(weight[0].abs().max().item<double>() == 0);
    CHECK(weight[1].max().item<double>() == -.5);
    CHECK(weight[1].min().item<double>() == -.5);
  }
}

}  // namespace rookery
