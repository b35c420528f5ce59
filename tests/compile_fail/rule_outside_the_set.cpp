// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: this rule is not in the collection.s set; add it to Rules<...>

#include "compile_fail/pieces.hpp"

#ifdef EXPECT_FAIL
using Rule = rk::RowwiseAdagrad;
#else
using Rule = rk::Sgd;
#endif
int main() { Tables tables{{{.name = "item", .num_embeddings = 3, .embedding_dim = 2, .optimizer = Rule{}}}}; }
