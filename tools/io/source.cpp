// SPDX-License-Identifier: Apache-2.0
// Files and memory behind one checked read; see source.h.
#include "tools/io/source.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <new>
#include <system_error>

#include "tools/io/tensor.h"

namespace mha::io {
namespace {

std::string errno_text() { return std::generic_category().message(errno); }

}  // namespace

Result<Source> Source::file(const std::string& path) {
  Source source;
  source.label_ = printable(path, 1000);
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (!std::filesystem::exists(status)) return source.fail(code ? code.message() : "no such file");
  if (!std::filesystem::is_regular_file(status)) return source.fail("not a regular file");
  source.file_.reset(std::fopen(path.c_str(), "rb"), [](std::FILE* file) {
    if (file != nullptr) std::fclose(file);
  });
  if (source.file_ == nullptr) return source.fail(errno_text());
  const auto size = std::filesystem::file_size(path, code);
  if (code) return source.fail(code.message());
  source.size_ = size;
  return source;
}

Source Source::memory(const void* data, std::size_t bytes, std::string label) {
  Source source;
  source.label_ = std::move(label);
  source.size_ = bytes;
  source.data_ = static_cast<const std::byte*>(data);
  return source;
}

Result<std::vector<std::byte>> Source::read(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset > size_ || bytes > size_ - offset) {
    return fail("truncated: needs " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
                ", the file has " + std::to_string(size_));
  }
  if (offset > static_cast<std::uint64_t>(std::numeric_limits<long>::max())) return fail("too large for this system");
  std::vector<std::byte> out;
  try {
    out.resize(static_cast<std::size_t>(bytes));
  } catch (const std::bad_alloc&) {
    return fail("not enough memory for " + std::to_string(bytes) + " bytes");
  }
  if (bytes == 0) return out;
  if (file_ == nullptr) {
    std::memcpy(out.data(), data_ + offset, out.size());
    return out;
  }
  errno = 0;
  if (std::fseek(file_.get(), static_cast<long>(offset), SEEK_SET) != 0) return fail(errno_text());
  if (std::fread(out.data(), 1, out.size(), file_.get()) != out.size()) {
    return fail(std::ferror(file_.get()) != 0 ? errno_text() : "the file became shorter while it was read");
  }
  return out;
}

Result<void> write_file(const std::string& path, const std::string& header, const void* data, std::size_t bytes) {
  const std::string label = printable(path, 1000);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return Error{label + ": cannot write: " + errno_text()};
  bool ok = std::fwrite(header.data(), 1, header.size(), file) == header.size();
  ok = ok && (bytes == 0 || std::fwrite(data, 1, bytes, file) == bytes);
  int code = errno;
  if (std::fclose(file) != 0 && ok) {  // a full disk may show only here
    ok = false;
    code = errno;
  }
  if (!ok) return Error{label + ": cannot write: " + std::generic_category().message(code)};
  return {};
}

}  // namespace mha::io
