// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// parse_torch_pickle: the tensors of a file of Python's torch.save, weights only.
//
// A pickle is a program. This reads the few instructions and names that dictionaries of tensors need, makes plain values of them, and
// refuses everything else by name; nothing is called, imported or executed.
// Source: pickletools.py; torch/_weights_only_unpickler.py; torch/_utils.py.  Include cost: c10 scalar types only.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <rookery/checkpoint/formats/byte_reader.hpp>
#include <rookery/checkpoint/formats/stored_tensor.hpp>
#include <rookery/checkpoint/formats/zip.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// A value of a pickle. Values refer to one another, as a pickle does, and all belong to one PickleReader.
struct PickleValue {
  enum class Kind { other, integer, text, list, dict, name, storage, tensor };
  using Pair = std::pair<const PickleValue*, PickleValue*>;
  Kind kind = Kind::other;                                       // None, numbers with a point, and what else carries no tensor
  std::int64_t integer = 0;                                      // booleans too
  std::string_view text{};                                       // of texts and names
  std::vector<PickleValue*> items{};                             // of lists and tuples
  std::vector<Pair> pairs{};                                     // of dictionaries
  StoredTensor tensor{};                                         // of storages, one dimension, and tensors
  enum class Visit { not_yet, under_way, without_tensors, with_tensors } visit = Visit::not_yet;
};

/// Runs the instructions of a pickle.
class PickleReader {
 public:
  PickleReader(Bytes pickle, const ZipRecords& records, std::string_view folder)
      : in_(pickle, "the pickle"), records_(records), folder_(folder) {}

  /// What the pickle is. Errors: DataError.
  PickleValue& run() {
    while (const auto result = step()) {
      if (*result) return **result;
    }
    fail<DataError>("the pickle has an instruction that no weights need, number ", opcode_, " at byte ", in_.position() - 1);
  }

 private:
  using Kind = PickleValue::Kind;
  static constexpr std::size_t most_values = 1'000'000;           // a tensor takes about 20, and one may be a single byte of the pickle

  /// One instruction: the result at STOP, null after others, nothing for an unknown one.
  std::optional<PickleValue*> step();
  void reduce();
  void set_pairs(PickleValue& dict, const std::vector<PickleValue*>& flat);
  PickleValue& storage(const PickleValue& id);
  PickleValue tensor(const std::vector<PickleValue*>& arguments);

  PickleValue& keep(PickleValue value) {
    check<DataError>(values_.size() < most_values, "the pickle has more than ", most_values, " values at byte ", in_.position());
    return values_.emplace_back(std::move(value));
  }
  PickleValue& push(PickleValue value) {
    stack_.push_back(&keep(std::move(value)));
    return *stack_.back();
  }
  void push_integer(std::int64_t value) { push({.kind = Kind::integer, .integer = value}); }
  PickleValue& top() {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    check<DataError>(stack_.size() > floor, "the pickle takes a value at byte ", in_.position(), " where there is none");
    return *stack_.back();
  }
  PickleValue& pop() {
    auto& value = top();
    stack_.pop_back();
    return value;
  }
  std::vector<PickleValue*> pop_some(std::size_t count) {
    std::vector<PickleValue*> some(count);
    for (auto i = count; i-- > 0;) some[i] = &pop();
    return some;
  }
  std::vector<PickleValue*> pop_to_mark() {
    check<DataError>(!marks_.empty(), "the pickle ends a list at byte ", in_.position(), " that it did not begin");
    const auto some = pop_some(stack_.size() - marks_.back());
    marks_.pop_back();
    return some;
  }
  PickleValue& of(PickleValue& value, Kind kind, std::string_view what) const {
    check<DataError>(value.kind == kind, "the pickle needs ", what, " at byte ", in_.position(), " and has something else");
    return value;
  }
  void global(std::string_view module, std::string_view name);
  void remember(std::uint64_t number) { memo_[number] = &top(); }
  void recall(std::uint64_t number) {
    const auto found = memo_.find(number);
    check<DataError>(found != memo_.end(), "the pickle refers at byte ", in_.position(), " to a value that it did not keep");
    stack_.push_back(found->second);
  }
  std::vector<std::int64_t> integers(PickleValue& list) const {
    std::vector<std::int64_t> all;
    for (auto* item : of(list, Kind::list, "a tuple").items) all.push_back(of(*item, Kind::integer, "an integer").integer);
    return all;
  }

  ByteReader in_;
  const ZipRecords& records_;
  std::string_view folder_;
  std::uint64_t opcode_ = 0;
  std::deque<PickleValue> values_;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, PickleValue*> memo_;
};

inline std::optional<PickleValue*> PickleReader::step() {
  opcode_ = in_.number(1);
  switch (opcode_) {
    case 0x80: {
      const auto protocol = in_.number(1);
      check<DataError>(protocol == 2, "the pickle has protocol ", protocol, "; torch.save writes 2 unless it is asked for another");
      break;
    }
    case '.': return &pop();
    case '(': marks_.push_back(stack_.size()); break;
    case '0': pop(); break;
    case '}': push({.kind = Kind::dict}); break;
    case ']': case ')': push({.kind = Kind::list}); break;
    case 'N': push({}); break;
    case 'G': in_.skip(8); push({}); break;                       // a float: no weight is one
    case 0x88: push_integer(1); break;
    case 0x89: push_integer(0); break;
    case 'K': push_integer(static_cast<std::int64_t>(in_.number(1))); break;
    case 'M': push_integer(static_cast<std::int64_t>(in_.number(2))); break;
    case 'J': push_integer(std::bit_cast<std::int32_t>(static_cast<std::uint32_t>(in_.number(4)))); break;
    case 0x8A: {
      const auto size = in_.number(1);
      check<DataError>(size <= 8, "the pickle has an integer of ", size, " bytes");
      auto value = in_.number(size);
      if (size > 0 && size < 8 && (value >> (8 * size - 1)) != 0) value |= ~std::uint64_t{0} << (8 * size);   // its sign
      push_integer(std::bit_cast<std::int64_t>(value));
      break;
    }
    case 'X': push({.kind = Kind::text, .text = in_.text(in_.number(4))}); break;
    case 'q': remember(in_.number(1)); break;
    case 'r': remember(in_.number(4)); break;
    case 'h': recall(in_.number(1)); break;
    case 'j': recall(in_.number(4)); break;
    case 't': push({.kind = Kind::list, .items = pop_to_mark()}); break;
    case 0x85: push({.kind = Kind::list, .items = pop_some(1)}); break;
    case 0x86: push({.kind = Kind::list, .items = pop_some(2)}); break;
    case 0x87: push({.kind = Kind::list, .items = pop_some(3)}); break;
    case 'a': {
      auto& item = pop();
      of(top(), Kind::list, "a list").items.push_back(&item);
      break;
    }
    case 'e': {
      const auto items = pop_to_mark();
      auto& list = of(top(), Kind::list, "a list").items;
      list.insert(list.end(), items.begin(), items.end());
      break;
    }
    case 's': {
      const auto pair = pop_some(2);
      set_pairs(top(), pair);
      break;
    }
    case 'u': {
      const auto pairs = pop_to_mark();
      set_pairs(top(), pairs);
      break;
    }
    case 'c': {
      const auto module = in_.line();
      global(module, in_.line());
      break;
    }
    case 'Q': stack_.push_back(&storage(pop())); break;
    case 'R': reduce(); break;
    case 'b':                                                     // an OrderedDict's attributes, such as a module's versions
      pop();
      of(top(), Kind::dict, "a dictionary");
      break;
    default: return std::nullopt;
  }
  return nullptr;
}

inline void PickleReader::global(std::string_view module, std::string_view name) {
  const bool is_dtype = module == "torch" && std::ranges::count(std::to_array<std::string_view>({
                          "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}), name) > 0;
  const bool is_storage = module == "torch" && !name.empty() && std::ranges::count(stored_dtypes, name, &StoredDtype::storage) > 0;
  const bool is_known = (module == "collections" && name == "OrderedDict") || (module == "torch" && name == "Size") ||
                        (module == "torch._utils" && (name == "_rebuild_tensor_v2" || name == "_rebuild_parameter"));
  check<DataError>(is_dtype || is_storage || is_known, "the pickle refers to ", module, ".", name,
                   ", which no weights need; it was not executed. Save a state_dict of plain tensors");
  if (is_dtype) push({});
  else push({.kind = Kind::name, .text = name});
}

inline void PickleReader::set_pairs(PickleValue& dict, const std::vector<PickleValue*>& flat) {
  of(dict, Kind::dict, "a dictionary");
  check<DataError>(flat.size() % 2 == 0, "the pickle gives a dictionary a name without a value at byte ", in_.position());
  for (std::size_t i = 0; i < flat.size(); i += 2) dict.pairs.emplace_back(flat[i], flat[i + 1]);
}

inline void PickleReader::reduce() {
  auto& arguments = of(pop(), Kind::list, "arguments");
  const auto name = of(pop(), Kind::name, "a known name").text;
  auto& items = arguments.items;
  if (name == "OrderedDict" && items.empty()) push({.kind = Kind::dict});
  else if (name == "Size" && items.size() == 1) stack_.push_back(&of(*items[0], Kind::list, "a tuple"));
  else if (name == "_rebuild_parameter" && items.size() == 3) stack_.push_back(&of(*items[0], Kind::tensor, "a tensor"));
  else if (name == "_rebuild_tensor_v2" && (items.size() == 6 || items.size() == 7)) push(tensor(items));
  else fail<DataError>("the pickle gives ", name, " ", items.size(), " arguments, which it does not take");
}

/// ('storage', torch.FloatStorage, '0', 'cpu', count) is record data/0, of one dimension.
inline PickleValue& PickleReader::storage(const PickleValue& id) {
  check<DataError>(id.kind == Kind::list && id.items.size() == 5, "the pickle refers at byte ", in_.position(), " to what is no storage");
  const auto type = of(*id.items[1], Kind::name, "a type of storage").text;
  const auto key = of(*id.items[2], Kind::text, "a storage's key").text;
  const auto count = of(*id.items[4], Kind::integer, "a count").integer;
  const auto dtype = std::ranges::find(stored_dtypes, type, &StoredDtype::storage);
  check<DataError>(dtype != stored_dtypes.end(), "the pickle names storage '", key, "' a ", type);
  const auto record = records_.find(concat(folder_, "data/", key));
  check<DataError>(record != records_.end(), "the archive has no record '", folder_, "data/", key, "', which its pickle refers to");
  const auto bytes = checked_count(record->first, {count}) * dtype->size;
  check<DataError>(static_cast<std::uint64_t>(bytes) <= record->second.size(), "'", record->first, "' has ", record->second.size(),
                   " bytes, too few for ", count, " numbers of ", dtype->size);
  return keep({.kind = Kind::storage,
               .tensor = {"", *dtype, {count}, {1}, record->second.first(static_cast<std::size_t>(bytes))}});
}

/// (storage, offset, shape, strides, requires_grad, hooks)
inline PickleValue PickleReader::tensor(const std::vector<PickleValue*>& arguments) {
  const auto& storage = of(*arguments[0], Kind::storage, "a storage").tensor;
  const auto offset = of(*arguments[1], Kind::integer, "an offset").integer;
  auto shape = integers(*arguments[2]), strides = integers(*arguments[3]);
  const auto name = concat("a tensor at byte ", in_.position(), " of the pickle");
  check<DataError>(shape.size() == strides.size() && offset >= 0 && offset <= storage.shape[0], name, " has shape ", shape, ", strides ",
                   strides, " and offset ", offset);
  bool inside = true;
  std::int64_t last = offset;                                    // the farthest number
  if (checked_count(name, shape) == 0) last = offset - 1;
  else
    for (std::size_t i = 0; i < shape.size(); ++i) {
      std::int64_t reach = 0;
      inside = inside && strides[i] >= 0 && !__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) &&
               !__builtin_add_overflow(last, reach, &last);
    }
  check<DataError>(inside && last < storage.shape[0], name, " reaches beyond its storage of ", storage.shape[0], " numbers: shape ", shape,
                   ", strides ", strides, ", offset ", offset);
  return {.kind = Kind::tensor, .tensor = {"", storage.dtype, std::move(shape), std::move(strides),
                                           storage.bytes.subspan(static_cast<std::size_t>(offset * storage.dtype.size))}};
}

/// Adds the tensors under `value`, named by the keys that lead to them. A pickle of a few bytes may name one tensor very often, so what
/// is found is bounded, and so are its names.
inline void collect_tensors(PickleValue& value, const std::string& path, std::vector<StoredTensor>& found, int depth = 0) {
  using Kind = PickleValue::Kind;
  constexpr int deepest = 64;
  constexpr std::size_t most_tensors = 100'000, longest_name = 1024;
  if (value.kind == Kind::tensor) {
    check<DataError>(found.size() < most_tensors, "the pickle has more than ", most_tensors, " tensors, again at '", path, "'");
    found.push_back(value.tensor);
    found.back().name = path;
  }
  if (value.kind != Kind::list && value.kind != Kind::dict) return;
  if (value.visit == PickleValue::Visit::without_tensors) return;
  check<DataError>(depth < deepest, "the pickle nests more than ", deepest, " lists and dictionaries, at ", "'", path.substr(0, 64), "'");
  check<DataError>(value.visit == PickleValue::Visit::not_yet, "the pickle has one list or dictionary in several places, again at '", path,
                   "'");
  value.visit = PickleValue::Visit::under_way;
  const auto before = found.size();
  const auto collect = [&](PickleValue& one, std::string_view key) {
    if (one.kind != Kind::tensor && one.kind != Kind::list && one.kind != Kind::dict) return;
    check<DataError>(path.size() + key.size() < longest_name, "the pickle has a name of more than ", longest_name, " bytes under ",
                     "'", path.substr(0, 64), "'");
    collect_tensors(one, concat(path, path.empty() ? "" : ".", key), found, depth + 1);
  };
  for (std::size_t i = 0; i < value.items.size(); ++i) collect(*value.items[i], std::to_string(i));
  for (const auto& [key, one] : value.pairs) {
    check<DataError>(key->kind == Kind::text || key->kind == Kind::integer, "the pickle has a key under '", path, "' that is no name");
    if (key->kind == Kind::text) collect(*one, key->text);
    else collect(*one, std::to_string(key->integer));
  }
  value.visit = found.size() > before ? PickleValue::Visit::with_tensors : PickleValue::Visit::without_tensors;
}

}  // namespace detail

/// The tensors of the file, by the keys that lead to them: "over.0.weight" of a state_dict, "model.over.0.weight" of a dictionary that
/// holds one. Numbers, texts and None beside them are left out. Errors: DataError for what is no such file, or not of tensors only.
inline std::vector<StoredTensor> parse_torch_pickle(Bytes file) {
  const auto records = zip_records(file);
  constexpr std::string_view pickle_name = "data.pkl";
  constexpr std::size_t most_pickle = std::size_t{16} << 20U;
  const auto pickle = std::ranges::find_if(records, [&](const auto& record) {
    return record.first.ends_with(pickle_name) && record.first.find('/') == record.first.size() - pickle_name.size() - 1;
  });
  check<DataError>(pickle != records.end(), "the archive has no ", pickle_name, "; torch.save writes one");
  const auto folder = pickle->first.substr(0, pickle->first.size() - pickle_name.size());
  check<DataError>(pickle->second.size() <= most_pickle, "'", pickle->first, "' has ", pickle->second.size(), " bytes; at most ",
                   most_pickle, " are read");
  if (const auto order = records.find(folder + "byteorder"); order != records.end())
    check<DataError>(ByteReader(order->second, "byteorder").text(order->second.size()) == "little", "the archive is not little-endian");

  detail::PickleReader reader(pickle->second, records, folder);
  std::vector<StoredTensor> tensors;
  detail::collect_tensors(reader.run(), "", tensors);
  return tensors;
}

}  // namespace rookery
