// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the tests of loggers share: a model with tables of every kind of split, and a topology that counts its collectives.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/modules/linear.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

namespace rookery::cases {

/// The deterministic fill F: (((7 row + 3 column) mod 11) - 5) / 10.
inline at::Tensor fill(std::int64_t rows, std::int64_t columns, at::ScalarType dtype = at::kFloat) {
  auto values = at::empty({rows, columns}, at::kDouble);                           // [rows, columns]
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      values.mutable_data_ptr<double>()[r * columns + c] = static_cast<double>((7 * r + 3 * c) % 11 - 5) / 10;
  return values.to(dtype);
}

using Tables = EmbeddingBagCollection<Rules<RowwiseAdagrad, Sgd>>;

struct Batch {
  KeyedJaggedTensor single, wide;
  std::int64_t size() const { return 0; }
};
struct Output {};

/// Three tables of float32, three of float64, and dense parameters, among them one without elements.
struct Model {
  Tables single, wide;
  std::vector<Linear> layers;
  Parameter scale, none;
  static constexpr auto members() {
    return rookery::members("single", &Model::single, "wide", &Model::wide, "layers", &Model::layers, "scale", &Model::scale, "none",
                            &Model::none);
  }
  auto lookups(const Batch& batch) const {
    return rookery::lookups(lookup<&Model::single>(batch.single), lookup<&Model::wide>(batch.wide));
  }
  Output forward(const Batch&, const auto&) { return {}; }
};
struct Loss {
  at::Tensor operator()(const Output&, const Batch&) const { return at::zeros({}); }
  at::Tensor normaliser(const Batch&) const { return at::zeros({}); }
};

inline ModelAndLoss<Model, Loss, Batch> model() {
  Model model{.single = {{.name = "whole", .num_embeddings = 7, .embedding_dim = 5},
                         {.name = "rows", .num_embeddings = 11, .embedding_dim = 3, .initial = Normal{3}},
                         {.name = "columns", .num_embeddings = 100, .embedding_dim = 9, .initial = Normal{.1}, .optimizer = Sgd{}}},
              .wide = {{.name = "grid", .num_embeddings = 31, .embedding_dim = 8, .data_type = at::kDouble, .initial = Normal{}},
                       {.name = "uneven", .num_embeddings = 13, .embedding_dim = 6, .data_type = at::kDouble, .initial = Normal{}},
                       {.name = "together", .num_embeddings = 6, .embedding_dim = 4, .data_type = at::kDouble, .initial = Normal{}}},
              .layers = {{3, 4}, {4, 2, at::kDouble}},
              .scale = Parameter({}, Normal{}),
              .none = Parameter({0, 3})};
  model.layers[0].weight.assign(fill(4, 3));
  return {std::move(model), {}};
}

/// "columns" by columns over all ranks, "grid" by rows and columns, "uneven" whole on one rank above and split below, "together" split
/// by columns that lie on one rank.
inline Plan plan(int ranks) {
  Plan plan;
  plan.tables.push_back({"whole", table_wise_shards(7, 5, ranks - 1)});
  plan.tables.push_back({"rows", row_wise_shards(11, 3, ranks)});
  TablePlan columns{"columns", {}};
  for (int r = 0; r < ranks; ++r) columns.shards.push_back({{0, 100, 9 * r / ranks, 9 * (r + 1) / ranks}, ranks - 1 - r});
  plan.tables.push_back(columns);
  plan.tables.push_back({"grid", {{{0, 10, 0, 3}, 0}, {{0, 10, 3, 8}, 1}, {{10, 31, 0, 3}, ranks - 1}, {{10, 31, 3, 8}, 0}}});
  plan.tables.push_back({"uneven", {{{0, 5, 0, 6}, 1}, {{5, 13, 0, 2}, 0}, {{5, 9, 2, 6}, 1}, {{9, 13, 2, 6}, ranks - 1}}});
  plan.tables.push_back({"together", {{{0, 6, 0, 1}, 1}, {{0, 6, 1, 4}, 1}}});
  return plan;
}

/// Threads, counting the collectives that this rank takes part in.
class Counting {
 public:
  static constexpr bool is_distributed = true;
  static constexpr std::string_view name = "counting";
  explicit Counting(Threads inner) : inner_(std::move(inner)) {}
  int rank() const { return inner_.rank(); }
  int world_size() const { return inner_.world_size(); }
  c10::Device device() const { return inner_.device(); }
  void abort(std::string_view cause) { inner_.abort(cause); }
  auto all_to_all_v(at::Tensor send, Counts to, Counts from) {
    return ++*count_, inner_.all_to_all_v(std::move(send), std::move(to), std::move(from));
  }
  auto all_reduce(at::Tensor tensor, ReduceOp op) { return ++*count_, inner_.all_reduce(std::move(tensor), op); }
  auto reduce_scatter_v(at::Tensor tensor, Counts counts) {
    return ++*count_, inner_.reduce_scatter_v(std::move(tensor), std::move(counts));
  }
  auto all_gather_v(at::Tensor tensor) { return ++*count_, inner_.all_gather_v(std::move(tensor)); }
  auto broadcast(at::Tensor tensor, int root) { return ++*count_, inner_.broadcast(std::move(tensor), root); }
  auto barrier() { return ++*count_, inner_.barrier(); }
  /// Collectives since the last call.
  int taken() { return std::exchange(*count_, 0); }

 private:
  Threads inner_;
  std::shared_ptr<int> count_ = std::make_shared<int>(0);
};

/// A temporary file that is read back as text.
class Scratch {
 public:
  std::FILE* file() const { return file_.get(); }
  std::string text() const {
    std::string text;
    std::rewind(file());
    for (int c = std::fgetc(file()); c != EOF; c = std::fgetc(file())) text += static_cast<char>(c);
    return text;
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_{std::tmpfile()};
};

}  // namespace rookery::cases
