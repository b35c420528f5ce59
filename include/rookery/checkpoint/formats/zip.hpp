// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// zip_records: the files inside a ZIP archive that holds them uncompressed, as torch.save writes it.
//
// Every offset and size is checked, and no byte belongs to two records. Checksums are not compared, as torch does not either.
// Source: PKWARE's APPNOTE 6.3, with ZIP64.  Include cost: none.

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/checkpoint/formats/byte_reader.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

using ZipRecords = std::map<std::string, Bytes, std::less<>>;

namespace detail {

struct ZipDirectory {
  std::uint64_t records = 0, size = 0, offset = 0;
};

/// Part [offset, offset + size) of the archive. Errors: DataError when it is not there.
inline Bytes zip_part(Bytes archive, std::uint64_t offset, std::uint64_t size, std::string_view what) {
  check<DataError>(offset <= archive.size() && size <= archive.size() - offset, "the ZIP archive's ", what, " would lie at byte ", offset,
                   " with ", size, " bytes; the file has ", archive.size());
  return archive.subspan(offset, size);
}

inline ZipDirectory zip_directory(Bytes archive) {
  constexpr std::uint64_t end_size = 22, locator_size = 20, most_comment = 65'535;
  check<DataError>(archive.size() >= end_size, "the ZIP archive has ", archive.size(), " bytes, too few for one");
  const std::uint64_t last = archive.size() - end_size;
  for (std::uint64_t back = 0; back <= std::min(last, most_comment); ++back) {
    ByteReader end(archive.subspan(last - back, end_size), "the ZIP archive's end");
    if (end.number(4) != 0x06054B50) continue;
    end.skip(6);
    ZipDirectory found{.records = end.number(2), .size = end.number(4), .offset = end.number(4)};
    if (end.number(2) != back) continue;                         // the comment does not end with the file: no end record
    if (last - back < locator_size) return found;
    ByteReader locator(archive.subspan(last - back - locator_size, locator_size), "the ZIP64 locator");
    if (locator.number(4) != 0x07064B50) return found;
    locator.skip(4);
    ByteReader large(zip_part(archive, locator.number(8), 56, "ZIP64 end"), "the ZIP64 end");
    check<DataError>(large.number(4) == 0x06064B50, "the ZIP64 end of the archive is not where the archive says");
    large.skip(28);
    return {.records = large.number(8), .size = large.number(8), .offset = large.number(8)};
  }
  fail<DataError>("the ZIP archive has no end record: it is cut off, or something was appended");
}

}  // namespace detail

/// The records of the archive by name. Errors: DataError for bytes that are no such archive.
inline ZipRecords zip_records(Bytes archive) {
  constexpr std::uint64_t in_zip64 = 0xFFFFFFFF;
  const auto directory = detail::zip_directory(archive);
  ByteReader entries(detail::zip_part(archive, directory.offset, directory.size, "directory"), "the ZIP archive's directory");
  ZipRecords records;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> taken{{directory.offset, archive.size()}};   // [begin, end) of each
  for (std::uint64_t i = 0; i < directory.records; ++i) {
    check<DataError>(entries.number(4) == 0x02014B50, "record ", i, " of the ZIP archive's directory is none");
    entries.skip(4);
    const auto flags = entries.number(2), method = entries.number(2);
    entries.skip(8);
    auto packed = entries.number(4), size = entries.number(4);
    const auto name_length = entries.number(2), extra_length = entries.number(2), comment_length = entries.number(2);
    entries.skip(8);
    auto offset = entries.number(4);
    const std::string name(entries.text(name_length));
    ByteReader extra(entries.take(extra_length), "a ZIP record's extra field");
    entries.skip(comment_length);
    while (extra.left() >= 4) {
      const auto kind = extra.number(2), length = extra.number(2);
      ByteReader field(extra.take(length), "a ZIP64 field");
      if (kind != 1) continue;
      for (auto* value : {&size, &packed, &offset})
        if (*value == in_zip64) *value = field.number(8);
    }
    check<DataError>((flags & 1U) == 0 && method == 0 && packed == size, "'", name,
                     "' is packed or encrypted in the ZIP archive, as torch.jit.save does; torch.save of a state_dict does not");

    ByteReader local(detail::zip_part(archive, offset, 30, concat("'", name, "'")), "a ZIP record's header");
    const bool signed_well = local.number(4) == 0x04034B50;
    local.skip(22);
    const auto local_name = local.number(2), local_extra = local.number(2), begin = offset + 30 + local_name + local_extra;
    check<DataError>(signed_well && local_name == name_length, "'", name, "' does not begin where the ZIP archive's directory says");
    const auto data = detail::zip_part(archive, begin, size, concat("'", name, "'"));
    taken.emplace_back(offset, begin + size);
    check<DataError>(records.emplace(name, data).second, "the ZIP archive has two records '", name, "'");
  }
  std::ranges::sort(taken);
  for (std::size_t i = 1; i < taken.size(); ++i)
    check<DataError>(taken[i - 1].second <= taken[i].first, "two records of the ZIP archive overlap at byte ", taken[i].first);
  return records;
}

}  // namespace rookery
