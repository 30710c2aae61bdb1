// SPDX-License-Identifier: Apache-2.0
// Reads little-endian numbers and strings from a Source, one after the other, through a buffer of a few pages.
#ifndef MHA_TOOLS_IO_GGUF_CURSOR_H
#define MHA_TOOLS_IO_GGUF_CURSOR_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tools/io/source.h"

namespace mha::io {

// The first failure stays, and everything that is read after it is 0 or empty.
class GgufCursor {
 public:
  explicit GgufCursor(const Source& source) : source_(source) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return source_.size() - at_; }
  bool failed() const { return !message_.empty(); }
  const std::string& message() const { return message_; }

  template <class T>
  T number() {
    T value{};
    copy(&value, sizeof value);
    return value;
  }

  // A length of 8 bytes, then that many bytes.
  std::string text(std::uint64_t limit) {
    const auto length = number<std::uint64_t>();
    if (failed()) return {};
    if (length > limit) {
      fail("a text of " + std::to_string(length) + " bytes is beyond the limit of " + std::to_string(limit));
      return {};
    }
    if (length > left()) {
      fail("a text of " + std::to_string(length) + " bytes is beyond the end of the file");
      return {};
    }
    std::string value(static_cast<std::size_t>(length), '\0');
    copy(value.data(), value.size());
    return failed() ? std::string() : value;
  }

  void skip(std::uint64_t bytes) {
    if (failed()) return;
    if (bytes > left()) return fail("a value of " + std::to_string(bytes) + " bytes is beyond the end of the file");
    at_ += bytes;
  }

  void fail(const std::string& message) {
    if (!failed()) message_ = "at byte " + std::to_string(at_) + ": " + message;
  }

 private:
  static constexpr std::uint64_t kBuffer = 1U << 16;

  void copy(void* out, std::size_t bytes) {
    auto* to = static_cast<std::byte*>(out);
    while (bytes > 0 && !failed()) {
      if (at_ < begin_ || at_ >= begin_ + buffer_.size()) {
        if (left() == 0) return fail("the file ends in the middle of its header");
        auto got = source_.read(at_, std::min(left(), kBuffer));
        if (!got) return fail(got.message());
        buffer_ = *std::move(got);
        begin_ = at_;
      }
      const std::size_t offset = static_cast<std::size_t>(at_ - begin_);
      const std::size_t part = std::min(bytes, buffer_.size() - offset);
      std::memcpy(to, buffer_.data() + offset, part);
      to += part, at_ += part, bytes -= part;
    }
  }

  const Source& source_;
  std::uint64_t at_ = 0, begin_ = 0;
  std::vector<std::byte> buffer_;
  std::string message_;
};

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_GGUF_CURSOR_H
