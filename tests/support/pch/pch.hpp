// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// What nearly every test parses, parsed once. No header of the library is in it: touching one rebuilds only the tests that use it.
// Headers are proved complete elsewhere: each is compiled alone, without this file.

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>
