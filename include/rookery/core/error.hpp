// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// One exception hierarchy for the library, and the one way to throw from it.
//
// A message is a single sentence that carries its numbers:
//   check<ShapeError>(n == want, "KeyedJaggedTensor: lengths has ", n, " entries; keys (", f, ") * batch (", b, ") = ", want);
// Source: replaces the-algorithm-ml's mix of asserts, KeyErrors and collectives that hang.  Include cost: none (no torch, no fmt).

#include <charconv>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rookery {

/// Root of everything the library throws. `what()` is one sentence; ranks and steps are added by the topology.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Tensors or containers whose sizes do not fit together.
class ShapeError : public Error { using Error::Error; };
/// An id outside its table, a key or name that does not exist.
class IndexError : public Error { using Error::Error; };
/// A configuration that cannot mean anything: a model, schema, option or argument.
class ConfigError : public Error { using Error::Error; };
/// Bytes from outside that do not say what they should; names file, line and column.
class DataError : public Error { using Error::Error; };
/// A plan that does not cover its tables exactly, or names what does not exist.
class PlanError : public Error { using Error::Error; };
/// A NaN or Inf that would have reached a weight.
class NonFiniteError : public Error { using Error::Error; };
/// A collective that cannot complete: a deadline, a rank that left, or ranks that disagree.
class CommunicationError : public Error { using Error::Error; };

namespace detail {

// Text is put together out of line: sentences are many and rare, and each one inlined costs every file that checks anything.
[[gnu::noinline]] inline void append(std::string& out, std::string_view text) { out += text; }
inline void append(std::string& out, const char* text) { append(out, std::string_view(text)); }
inline void append(std::string& out, bool value) { append(out, value ? "true" : "false"); }
inline void append(std::string& out, char value) { append(out, std::string_view(&value, 1)); }

template <class Number> [[gnu::noinline]] void append_digits(std::string& out, Number value) {
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}
template <class Number>
  requires(std::integral<Number> || std::floating_point<Number>)
void append(std::string& out, Number value) {
  if constexpr (std::floating_point<Number>) append_digits(out, value);
  else if constexpr (std::signed_integral<Number>) append_digits(out, static_cast<long long>(value));
  else append_digits(out, static_cast<unsigned long long>(value));
}

template <class Range>
  requires(!std::convertible_to<Range, std::string_view> && requires(const Range& range) { range.begin() != range.end(); })
void append(std::string& out, const Range& range) {
  out += '[';
  std::string_view separator = "";
  for (const auto& element : range) {
    out += separator;
    append(out, element);
    separator = ", ";
  }
  out += ']';
}

/// Anything that can be said in a sentence. Sentences differ in many ways and are compiled once: what puts them together sees parts only.
struct Part {
  const void* value;
  void (*append_to)(std::string& out, const void* value);
};
template <class T> void append_value(std::string& out, const void* value) { append(out, *static_cast<const T*>(value)); }
inline void append_characters(std::string& out, const void* characters) { append(out, static_cast<const char*>(characters)); }

template <class T> [[gnu::always_inline]] inline Part part(const T& value) { return {&value, &append_value<T>}; }
[[gnu::always_inline]] inline Part part(const char* value) { return {value, &append_characters}; }

[[gnu::noinline]] inline std::string join(std::initializer_list<Part> parts) {
  std::string out;
  for (const auto& one : parts) one.append_to(out, one.value);
  return out;
}
template <class Kind> [[noreturn, gnu::cold, gnu::noinline]] void raise(std::initializer_list<Part> parts) { throw Kind(join(parts)); }

}  // namespace detail

/// Joins its arguments as text: strings as they are, numbers in their shortest exact form, ranges as `[a, b]`.
template <class... Parts> [[gnu::always_inline]] inline std::string concat(const Parts&... parts) {
  return detail::join({detail::part(parts)...});
}

/// Throws `Kind` with the joined sentence.
template <class Kind, class... Parts> [[noreturn, gnu::always_inline]] inline void fail(const Parts&... parts) {
  detail::raise<Kind>({detail::part(parts)...});
}

/// Throws `Kind` unless `holds`; the sentence is only put together when it is needed. Level: always.
template <class Kind, class... Parts> [[gnu::always_inline]] inline void check(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]] detail::raise<Kind>({detail::part(parts)...});
}

}  // namespace rookery
