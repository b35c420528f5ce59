// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ExchangeOptions: how embeddings travel between ranks. None of them changes what a step computes, but for the rounding of narrow
// precisions.
//
// Answers to torchrec's QCommsConfig and use_index_dedup.  Include cost: none (c10 scalar types only).

#include <c10/core/ScalarType.h>

#include <string_view>

namespace rookery {

/// The dtype of numbers on their way, in TorchRec's words. `fp32`: as they were computed, float64 of float64 tables too.
enum class CommType { fp32, fp16, bf16 };

inline std::string_view to_string(CommType type) { return type == CommType::fp32 ? "fp32" : type == CommType::fp16 ? "fp16" : "bf16"; }

/// The dtype that numbers of `computed` travel as.
inline c10::ScalarType comm_dtype(CommType type, c10::ScalarType computed) {
  if (type == CommType::fp32) return computed;
  return type == CommType::fp16 ? c10::ScalarType::Half : c10::ScalarType::BFloat16;
}

/// What a rank asks another for, when it needs the pooled rows of its bags: the sums over the rows that the other has, or these rows,
/// each once, to pool them itself. Unique rows are fewer bytes where bags are short or their ids repeat; `fewest_bytes` does not look for
/// them among more than four ids a bag, where finding them costs more than it mostly saves.
enum class PooledExchange { fewest_bytes, partial_sums, unique_rows };

struct ExchangeOptions {
  CommType forward_precision = CommType::fp32;       // of pooled values and rows
  CommType backward_precision = CommType::fp32;      // of their gradients; of float16 one beyond 65504 is infinite
  PooledExchange pooled = PooledExchange::fewest_bytes;
};

}  // namespace rookery
