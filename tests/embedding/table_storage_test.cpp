// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/embedding/table_storage.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

constexpr StateSlot row_slot{"row_sum", StateShape::row}, other_row_slot{"counter", StateShape::row},
    element_slot{"exp_avg", StateShape::element};

TableStorage storage(std::int64_t rows, std::int64_t dim, at::ScalarType dtype, const std::vector<StateSlot>& slots) {
  return {rows, dim, dtype, slots};
}

std::int64_t lines(std::int64_t bytes) { return (bytes + 63) / 64; }

}  // namespace

TEST_SUITE("embedding/table_storage") {
  TEST_CASE("weights and state start at zero, with the shapes of their slots") {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const auto table = storage(100, 5, dtype, {row_slot, element_slot});
      CHECK(table.rows() == 100);
      CHECK(table.dim() == 5);
      CHECK((table.dtype() == dtype));
      CHECK(table.weight().sizes() == at::IntArrayRef({100, 5}));
      CHECK((table.weight().scalar_type() == dtype));
      CHECK(table.state(0).sizes() == at::IntArrayRef({100}));
      CHECK(table.state(1).sizes() == at::IntArrayRef({100, 5}));
      CHECK(table.state_names() == std::vector<std::string>{"row_sum", "exp_avg"});
      for (const auto& tensor : {table.weight(), table.state(0), table.state(1)}) CHECK(tensor.abs().max().item<double>() == 0);
      CHECK_THROWS_AS(table.state(2), std::out_of_range);
    }
  }
  TEST_CASE("row state sits right behind its row when that adds no cache line, else by itself") {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const auto size = static_cast<std::int64_t>(c10::elementSize(dtype));
      for (std::int64_t dim = 1; dim <= 257; ++dim)
        for (const auto& slots : std::vector<std::vector<StateSlot>>{{}, {row_slot}, {row_slot, other_row_slot}, {element_slot}}) {
          const auto table = storage(3, dim, dtype, slots);
          std::int64_t row_slots = 0;
          for (const auto& slot : slots) row_slots += slot.shape == StateShape::row;
          const bool beside = lines((dim + row_slots) * size) == lines(dim * size);
          REQUIRE(table.stride() == (beside ? dim + row_slots : dim));
          REQUIRE(table.weight().stride(0) == table.stride());
          REQUIRE(table.weight().stride(1) == 1);
          for (std::size_t slot = 0; slot < slots.size(); ++slot) {
            if (slots[slot].shape == StateShape::element) continue;
            const auto* first = static_cast<const std::byte*>(table.state(slot).const_data_ptr());
            const auto* row = static_cast<const std::byte*>(table.weight().const_data_ptr());
            REQUIRE((first == row + (dim + static_cast<std::int64_t>(slot)) * size) == beside);
            REQUIRE(table.state(slot).stride(0) == (beside ? table.stride() : 1));
          }
        }
    }
    CHECK(storage(3, 5, at::kFloat, {row_slot}).stride() == 6);
    CHECK(storage(3, 16, at::kFloat, {row_slot}).stride() == 16);
    CHECK(storage(3, 8, at::kDouble, {row_slot}).stride() == 8);
    CHECK(storage(3, 9, at::kDouble, {row_slot}).stride() == 10);
  }
  TEST_CASE("bytes counts weights, state and nothing else") {
    CHECK(storage(10, 5, at::kFloat, {}).bytes() == 10 * 5 * 4);
    CHECK(storage(10, 5, at::kFloat, {row_slot}).bytes() == 10 * 6 * 4);
    CHECK(storage(10, 16, at::kFloat, {row_slot}).bytes() == 10 * 17 * 4);
    CHECK(storage(10, 5, at::kDouble, {element_slot, element_slot}).bytes() == 3 * 10 * 5 * 8);
    CHECK(TableStorage().bytes() == 0);
  }
  TEST_CASE("writing weights and state touches nothing else") {
    for (const std::int64_t dim : {5, 16}) {
      const auto table = storage(20, dim, at::kFloat, {row_slot, element_slot, other_row_slot});
      const auto weights = at::arange(20 * dim, at::kFloat).view({20, dim}).add(1), elements = weights.mul(-1);
      const auto rows = at::arange(20, at::kFloat).add(1000), counters = rows.add(1000);
      table.weight().copy_(weights);
      table.state(0).copy_(rows);
      table.state(1).copy_(elements);
      table.state(2).copy_(counters);
      CHECK(at::equal(table.weight(), weights));
      CHECK(at::equal(table.state(0), rows));
      CHECK(at::equal(table.state(1), elements));
      CHECK(at::equal(table.state(2), counters));
    }
  }
  TEST_CASE("memory is page aligned, and lives as long as any of its tensors") {
    at::Tensor weight, state;
    {
      const auto table = storage(1000, 7, at::kDouble, {row_slot});
      CHECK(reinterpret_cast<std::uintptr_t>(table.weight().const_data_ptr()) % 4096 == 0);
      weight = table.weight();
      state = table.state(0);
      weight.fill_(3);
    }
    CHECK(at::equal(weight, at::full({1000, 7}, 3., at::kDouble)));
    weight.reset();
    CHECK(state.abs().max().item<double>() == 0);
  }
  TEST_CASE("no rows or no columns is a table without bytes") {
    const auto none = storage(0, 5, at::kFloat, {row_slot, element_slot});
    CHECK(none.bytes() == 0);
    CHECK(none.weight().sizes() == at::IntArrayRef({0, 5}));
    CHECK(none.state(0).numel() == 0);
    CHECK(storage(4, 0, at::kFloat, {}).weight().sizes() == at::IntArrayRef({4, 0}));
  }
  TEST_CASE("pages are taken when they are touched, not before") {
    const auto resident_pages = [] {
      std::ifstream file("/proc/self/statm");
      std::int64_t all = 0, resident = 0;
      file >> all >> resident;
      return resident;
    };
    const auto before = resident_pages();
    const auto table = storage(std::int64_t{1} << 24, 16, at::kFloat, {});
    CHECK(table.bytes() == std::int64_t{1} << 30);
    table.weight()[1 << 23].fill_(1);
    CHECK(resident_pages() - before < 16'384);  // 64 MiB of 1 GiB
  }
  TEST_CASE("memory that is not to be had is an error with its bytes") {
    CHECK_THROWS_WITH_AS(storage(std::int64_t{1} << 45, 4, at::kFloat, {}), "TableStorage: cannot allocate 562949953421312 bytes", Error);
    const auto huge = std::int64_t{1} << 60;
    for (const std::int64_t dim : {15, 16})
      CHECK_THROWS_WITH_AS(storage(huge, dim, at::kFloat, {}),
                           concat("TableStorage: [", huge, ", ", dim, "] of Float needs more than 2^63 bytes").c_str(), ConfigError);
    CHECK_THROWS_AS(storage(huge, 1, at::kHalf, {element_slot, element_slot}), Error);
  }
}

}  // namespace rookery
