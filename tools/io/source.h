// SPDX-License-Identifier: Apache-2.0
// Source: bytes at offsets, from a file or from memory, with every read checked against the size that was there at the
// start. The readers see nothing else, so that the fuzzers (memory) and the command line (files) run the same code.
#ifndef MHA_TOOLS_IO_SOURCE_H
#define MHA_TOOLS_IO_SOURCE_H

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tools/io/result.h"

namespace mha::io {

class Source {
 public:
  // Opens a regular file. A file that shrinks later gives an error from read(), never a signal (no mmap).
  static Result<Source> file(const std::string& path);
  // Does not copy: `data` must outlive the source. `label` stands for the file name in messages.
  static Source memory(const void* data, std::size_t bytes, std::string label);

  std::uint64_t size() const { return size_; }
  const std::string& label() const { return label_; }

  // The `bytes` bytes at `offset`. Checks the range before it allocates.
  Result<std::vector<std::byte>> read(std::uint64_t offset, std::uint64_t bytes) const;

  // An error with the file's name in front.
  Error fail(const std::string& message) const { return Error{label_ + ": " + message}; }

 private:
  std::string label_;
  std::uint64_t size_ = 0;
  const std::byte* data_ = nullptr;
  std::shared_ptr<std::FILE> file_;
};

// Writes the two pieces one after the other to a new file, or over an old one.
Result<void> write_file(const std::string& path, const std::string& header, const void* data, std::size_t bytes);

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_SOURCE_H
