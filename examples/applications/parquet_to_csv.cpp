// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Writes the columns of Parquet files as the CSV that TableReader, TableStream and train_dlrm read, one row group in memory at a time.
//
//   parquet_to_csv clicks.csv part-0.parquet part-1.parquet
// Numbers, texts, booleans, dates and times; a null is an empty field. Built where Meson finds Arrow 24 or later.

#include <arrow/api.h>
#include <arrow/csv/writer.h>
#include <arrow/io/file.h>
#include <arrow/ipc/writer.h>
#include <parquet/arrow/reader.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

namespace {

arrow::Status convert(int argc, char** argv) {
  ARROW_ASSIGN_OR_RAISE(auto output, arrow::io::FileOutputStream::Open(argv[1]));
  std::shared_ptr<arrow::ipc::RecordBatchWriter> writer;
  std::shared_ptr<arrow::Schema> schema;
  for (int i = 2; i < argc; ++i) {
    ARROW_ASSIGN_OR_RAISE(auto input, arrow::io::ReadableFile::Open(argv[i]));
    ARROW_ASSIGN_OR_RAISE(auto reader, parquet::arrow::OpenFile(std::move(input), arrow::default_memory_pool()));
    std::shared_ptr<arrow::Schema> own;
    ARROW_RETURN_NOT_OK(reader->GetSchema(&own));
    if (!writer) {
      schema = own;
      ARROW_ASSIGN_OR_RAISE(writer, arrow::csv::MakeCSVWriter(output, schema));
    }
    if (!own->Equals(*schema)) return arrow::Status::Invalid(argv[i], ": its columns are not those of ", argv[2]);
    for (int group = 0; group < reader->num_row_groups(); ++group) {
      ARROW_ASSIGN_OR_RAISE(auto table, reader->ReadRowGroup(group));
      ARROW_RETURN_NOT_OK(writer->WriteTable(*table));
    }
  }
  ARROW_RETURN_NOT_OK(writer->Close());
  return output->Close();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "parquet_to_csv CSV PARQUET...\n");
    return 2;
  }
  const auto status = convert(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "parquet_to_csv: %s\n", status.ToString().c_str());
  return 1;
}
