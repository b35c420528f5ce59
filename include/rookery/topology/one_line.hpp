// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// one_line: what an exception says, for a log or the end of a program.
//
//   catch (const std::exception& error) { fmt::print(stderr, "{}\n", rookery::one_line(error)); }
//
// LibTorch's own errors carry a stack trace of dozens of lines behind their sentence.  Include cost: c10 only.

#include <c10/util/Exception.h>

#include <exception>
#include <string>

#include <rookery/core/error.hpp>

namespace rookery {

/// The first line of what `error` says; of LibTorch's errors without their stack trace.
inline std::string one_line(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch ? torch->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

namespace detail {

/// Throws `error` again as the same kind of Error with `where` in front; other exceptions become Error.
[[noreturn]] inline void rethrow_with(const std::exception_ptr& error, const std::string& where) {
  try {
    std::rethrow_exception(error);
  } catch (const ShapeError& e) { fail<ShapeError>(where, ": ", e.what());
  } catch (const IndexError& e) { fail<IndexError>(where, ": ", e.what());
  } catch (const ConfigError& e) { fail<ConfigError>(where, ": ", e.what());
  } catch (const DataError& e) { fail<DataError>(where, ": ", e.what());
  } catch (const PlanError& e) { fail<PlanError>(where, ": ", e.what());
  } catch (const NonFiniteError& e) { fail<NonFiniteError>(where, ": ", e.what());
  } catch (const CommunicationError& e) { fail<CommunicationError>(where, ": ", e.what());
  } catch (const std::exception& e) { fail<Error>(where, ": ", one_line(e));
  }
}

}  // namespace detail

}  // namespace rookery
