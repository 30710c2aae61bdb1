// SPDX-License-Identifier: Apache-2.0
// Names of element types and storage; see formats.h.
#include "tools/cli/formats.h"

#include <charconv>

#include "tools/cli/support.h"

namespace mha::cli {
namespace {

struct Name {
  const char* name;
  mha_dtype dtype;
};
// The first name of a type is the one that is printed.
constexpr Name kNames[] = {{"f32", MHA_F32},  {"f16", MHA_F16}, {"bf16", MHA_BF16}, {"i8", MHA_I8},
                           {"int8", MHA_I8},  {"u8", MHA_U8},   {"uint8", MHA_U8},  {"i4", MHA_I4},
                           {"int4", MHA_I4},  {"u4", MHA_U4},   {"uint4", MHA_U4},  {"q8_0", MHA_Q8_0},
                           {"q4_0", MHA_Q4_0}};

constexpr std::int64_t kBlock = 32;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// Of a list.
[[noreturn]] void fail(const std::string& option, const std::string& text, const std::string& why) {
  throw Failure(option + " '" + text + "': " + why);
}

bool parse_number(const std::string& text, std::int64_t& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data(), end, value);
  return code == std::errc() && stop == end;
}

mha_dtype find_dtype(const std::string& option, const std::string& word) {
  for (const Name& known : kNames) {
    if (word == known.name) return known.dtype;
  }
  throw Failure(option + ": '" + word + "' is no element type; one of " + kDtypeNames);
}

// One ":..." of a format.
void parse_part(const std::string& option, const std::string& part, Format& format) {
  const std::string what = option + " '" + format.text + "': ";
  if (!has_scales(format.dtype)) {
    throw Failure(what + "'" + part + "' belongs to codes (i8, u8, i4, u4), not to " + dtype_name(format.dtype));
  }
  if (part.rfind("group=", 0) == 0) {
    if (!parse_number(part.substr(6), format.group) || format.group < 0) {
      throw Failure(what + "'" + part.substr(6) + "' is no number of elements");
    }
  } else if (part.rfind("tokens=", 0) == 0) {
    if (!parse_number(part.substr(7), format.tokens) || format.tokens < 0) {
      throw Failure(what + "'" + part.substr(7) + "' is no number of tokens");
    }
  } else if (part.rfind("scales=", 0) == 0) {
    format.scale_dtype = parse_dtype(option, part.substr(7));
  } else if (part == "zeros") {
    format.zeros = true;
  } else if (part == "hadamard") {
    format.hadamard = true;
  } else if (part == "fixed") {
    format.fixed = true;
  } else {
    throw Failure(what + "'" + part + "' is none of group=N, tokens=N, scales=DTYPE, zeros, hadamard, fixed");
  }
}

}  // namespace

Format parse_format(const std::string& option, const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  Format format;
  format.text = text;
  format.dtype = find_dtype(option, parts[0]);
  for (std::size_t i = 1; i < parts.size(); ++i) parse_part(option, parts[i], format);
  return format;
}

mha_dtype parse_dtype(const std::string& option, const std::string& text) { return find_dtype(option, text); }

const char* dtype_name(mha_dtype dtype) {
  for (const Name& known : kNames) {
    if (known.dtype == dtype) return known.name;
  }
  return "unknown";
}

bool has_scales(mha_dtype dtype) { return dtype == MHA_I8 || dtype == MHA_U8 || dtype == MHA_I4 || dtype == MHA_U4; }

bool is_block(mha_dtype dtype) { return dtype == MHA_Q8_0 || dtype == MHA_Q4_0; }

std::int64_t code_bytes(mha_dtype dtype, std::int64_t count) {
  switch (dtype) {
    case MHA_F32:
      return count * 4;
    case MHA_F16:
    case MHA_BF16:
      return count * 2;
    case MHA_I8:
    case MHA_U8:
      return count;
    case MHA_I4:
    case MHA_U4:
      return count / 2;
    case MHA_Q8_0:
      return count / kBlock * (2 + kBlock);
    case MHA_Q4_0:
      return count / kBlock * (2 + kBlock / 2);
  }
  return 0;
}

mha_storage storage_of(const Format& format) {
  if (format.tokens > 1) {
    throw Failure("'" + format.text +
                  "': scales of several tokens are for tensors, stored rows have scales of their own");
  }
  mha_storage storage{};
  storage.dtype = format.dtype;
  storage.scale_dtype = format.scale_dtype;
  storage.group = format.group;
  storage.zero_points = format.zeros ? 1 : 0;
  storage.hadamard = format.hadamard ? 1 : 0;
  return storage;
}

std::vector<std::int64_t> parse_numbers(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> numbers;
  for (const std::string& part : split(text, ',')) {
    if (!parse_number(part, numbers.emplace_back())) {
      fail(option, text, "'" + part + "' is no integer");
    }
  }
  return numbers;
}

std::vector<std::string> parse_words(const std::string& option, const std::string& text) {
  std::vector<std::string> words = split(text, ',');
  for (const std::string& word : words) {
    if (word.empty()) fail(option, text, "a word of the list is empty");
  }
  return words;
}

std::vector<std::int64_t> offsets_of(const std::string& option, const std::vector<std::int64_t>& lengths) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 40;
  std::vector<std::int64_t> offsets(1);
  for (const std::int64_t length : lengths) {
    if (length < 0 || length > kLimit) {
      throw Failure(option + ": a length is " + std::to_string(length) + ", must be in [0, " + std::to_string(kLimit) +
                    "]");
    }
    offsets.push_back(offsets.back() + length);
  }
  return offsets;
}

}  // namespace mha::cli
