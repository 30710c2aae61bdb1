// SPDX-License-Identifier: Apache-2.0
// Caches as a state machine: thousands of random operations on every kind at once, against models that keep plain
// vectors. After each operation lengths, what is kept, and bytes in use must be the model's; what fails changes
// nothing.
#include <map>
#include <set>

#include "tests/support/caches.h"
#include "tests/support/calls.h"

using namespace mha::test;

namespace {

/// A sequence as plain vectors: every token ever appended and not rolled back, dropped or not.
struct ModelSequence {
  Tokens tokens;
  int64_t length = 0;
  int64_t first_kept = 0;
  std::vector<int> pages;  // paged: a number for each
};

class Model {
 public:
  Model(const mha_cache_config& config, mha_cache* cache) : config_(config), cache_(cache) {
    sequences.resize(static_cast<size_t>(config.max_sequences));
  }

  std::vector<ModelSequence> sequences;

  ModelSequence& at(int64_t s) { return sequences[static_cast<size_t>(s)]; }

  /// Grows the sequences of `counts`, or none of them.
  mha_status append(const std::map<int64_t, Tokens>& more) {
    Model next = *this;
    for (const auto& [s, tokens] : more) {
      ModelSequence& sequence = next.at(s);
      const int64_t count = count_of(tokens);
      if (config_.kind == MHA_CACHE_CONTIGUOUS && sequence.length + count > config_.capacity) return MHA_ERR_FULL;
      if (count == 0) continue;
      if (config_.kind == MHA_CACHE_PAGED) next.grow_pages(&sequence, count);
      sequence.tokens += tokens;
      sequence.length += count;
    }
    if (config_.kind == MHA_CACHE_PAGED && next.pages_used() > config_.capacity / config_.page_size)
      return MHA_ERR_FULL;
    *this = next;
    return MHA_OK;
  }

  bool can_cut(int64_t s, int64_t length) {
    return length >= 0 && length <= at(s).length && (length <= config_.sink_tokens || length >= at(s).first_kept);
  }

  void cut(ModelSequence* sequence, int64_t length) {
    sequence->tokens = slice(config_, sequence->tokens, 0, length);
    sequence->length = length;
    if (length <= config_.sink_tokens) sequence->first_kept = 0;
    if (config_.kind == MHA_CACHE_PAGED)
      sequence->pages.resize(static_cast<size_t>((length + config_.page_size - 1) / config_.page_size));
  }

  /// Whether tokens [begin, end) are kept.
  bool keeps(int64_t s, int64_t begin, int64_t end) {
    if (begin < 0 || end > at(s).length) return false;
    return begin == end || begin >= at(s).first_kept || end <= config_.sink_tokens;
  }

  int64_t count_of(const Tokens& tokens) const {
    return static_cast<int64_t>(tokens.key.size()) / (config_.num_kv_heads * config_.head_dim);
  }

  /// Takes over what the ring says it dropped, if it kept what it must: its last `capacity` tokens, unless they were
  /// dropped before a rollback.
  void check_dropped(int64_t s, int64_t before) {
    ModelSequence& sequence = at(s);
    const int64_t first = mha_cache_first_kept(cache_, s);
    if (config_.kind == MHA_CACHE_RING) {
      CHECK(first >= before);
      CHECK(first <= std::max(before, sequence.length - config_.capacity));
      if (first > 0) CHECK(first > config_.sink_tokens);
    } else {
      CHECK(first == 0);
    }
    sequence.first_kept = first;
  }

  void check_sizes() {
    const size_t token = static_cast<size_t>(config_.num_kv_heads * (config_.head_dim + config_.value_head_dim)) * 4;
    const size_t used = mha_cache_used_bytes(cache_);
    size_t capacity = 0;
    REQUIRE(mha_cache_memory_bytes(&config_, &capacity, nullptr) == MHA_OK);
    CHECK(used <= capacity);
    int64_t kept = 0;
    for (int64_t s = 0; s < config_.max_sequences; ++s) {
      REQUIRE(mha_cache_length(cache_, s) == at(s).length);
      REQUIRE(mha_cache_first_kept(cache_, s) == at(s).first_kept);
      kept += at(s).length - at(s).first_kept + (at(s).first_kept ? config_.sink_tokens : 0);
    }
    if (kept == 0) CHECK(used == 0);
    if (config_.kind == MHA_CACHE_PAGED) {
      const size_t page = static_cast<size_t>(config_.page_size) * token;
      const size_t pages = static_cast<size_t>(pages_used());
      CHECK(used >= pages * page);
      CHECK(used < pages * (page + 128) + 1);
    } else {
      CHECK(used >= static_cast<size_t>(kept) * token);
    }
  }

  void check_contents(int64_t s) {
    const ModelSequence& sequence = at(s);
    const auto check = [&](int64_t begin, int64_t end) {
      if (!same_tokens(exported(cache_, s, begin, end - begin), slice(config_, sequence.tokens, begin, end - begin)))
        FAIL_CHECK(kind_name(config_.kind) << " sequence " << s << ": tokens [" << begin << ", " << end << ") differ");
    };
    check(sequence.first_kept, sequence.length);
    if (sequence.first_kept > 0) check(0, config_.sink_tokens);
  }

  int64_t pages_used() const {
    std::set<int> used;
    for (const ModelSequence& sequence : sequences) used.insert(sequence.pages.begin(), sequence.pages.end());
    return static_cast<int64_t>(used.size());
  }

  const mha_cache_config& config() const { return config_; }
  mha_cache* cache() const { return cache_; }

 private:
  void grow_pages(ModelSequence* sequence, int64_t count) {
    static int next_number = 0;
    if (sequence->length % config_.page_size != 0) {
      int64_t holders = 0;
      for (const ModelSequence& other : sequences)
        holders += std::count(other.pages.begin(), other.pages.end(), sequence->pages.back());
      if (holders > 1) sequence->pages.back() = next_number++;
    }
    while (static_cast<int64_t>(sequence->pages.size()) * config_.page_size < sequence->length + count)
      sequence->pages.push_back(next_number++);
  }

  mha_cache_config config_;
  mha_cache* cache_;
};

struct Saved {
  std::vector<float> blob;
  ModelSequence sequence;
  int64_t leading;
};

class Machine {
 public:
  Machine(const std::vector<mha_cache_config>& configs, uint64_t seed) : random_(seed) {
    for (const mha_cache_config& config : configs) {
      caches_.push_back(make_cache(cache_context(), config));
      models_.emplace_back(config_of(caches_.back().get()), caches_.back().get());
    }
  }

  void run(int operations) {
    for (int n = 0; n < operations; ++n) {
      Model& model = models_[static_cast<size_t>(random_.below(static_cast<int64_t>(models_.size())))];
      const int64_t kind = random_.below(100);
      const char* name = kind < 40   ? append(model)
                         : kind < 44 ? append_twice(model)
                         : kind < 58 ? truncate(model)
                         : kind < 72 ? fork(model)
                         : kind < 80 ? remove(model)
                         : kind < 88 ? export_some(model)
                         : kind < 92 ? save(model)
                         : kind < 99 ? load(model)
                                     : reset(model);
      ++done_[name];
      INFO("operation " << n << ": " << name << " on " << kind_name(model.config().kind));
      model.check_sizes();
      model.check_contents(any(model));
      if (n % 50 == 0)
        for (Model& each : models_)
          for (int64_t s = 0; s < each.config().max_sequences; ++s) each.check_contents(s);
    }
  }
  /// How often each operation came to each outcome.
  const std::map<std::string, int>& done() const { return done_; }

 private:
  int64_t any(const Model& model) { return random_.below(model.config().max_sequences); }

  const char* append(Model& model) {
    const mha_cache_config& c = model.config();
    std::vector<int64_t> all(static_cast<size_t>(c.max_sequences));
    for (size_t s = 0; s < all.size(); ++s) all[s] = static_cast<int64_t>(s);
    for (size_t s = all.size() - 1; s > 0; --s)
      std::swap(all[s], all[static_cast<size_t>(random_.below(static_cast<int64_t>(s) + 1))]);
    const bool ragged = random_.below(2) != 0;
    const int64_t batch = random_.below(c.max_sequences + 1);
    const int64_t most = random_.below(8) == 0 ? 2 * c.capacity : 1 + c.capacity / 3;
    const int64_t length = random_.below(most + 1);
    std::map<int64_t, Tokens> more;
    std::vector<int64_t> offsets = {0};
    Tokens packed;
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t count = ragged ? random_.below(most + 1) : length;
      const Tokens tokens = random_tokens(c, count, random_.bits());
      packed += tokens;
      offsets.push_back(offsets.back() + count);
      more[all[static_cast<size_t>(b)]] = tokens;
    }
    const int64_t rows = offsets.back();
    mha_append_args args = {};
    args.batch = batch;
    args.sequences = all.data();
    args.length = ragged ? rows : length;
    if (ragged) args.offsets = offsets.data();
    // Packed, or dense [B, T, ...], which is the same bytes; or with room between the rows.
    const Extent key_extent = {ragged ? 1 : batch, args.length, c.num_kv_heads, c.head_dim};
    const Extent value_extent = {ragged ? 1 : batch, args.length, c.num_kv_heads, c.value_head_dim};
    Placed key(key_extent, padded_bthd(key_extent, 3)), value(value_extent, dense_bhtd(value_extent), 1);
    args.key = key.fill(packed.key).view();
    args.value = value.fill(packed.value).view();
    if (random_.below(2) != 0) args.key = view(packed.key.data());
    if (random_.below(2) != 0) args.value = view(packed.value.data());

    std::vector<int64_t> first_kept;
    for (int64_t b = 0; b < batch; ++b) first_kept.push_back(model.at(all[static_cast<size_t>(b)]).first_kept);
    const mha_status want = model.append(more);
    const mha_status status = mha_cache_append(cache_context(), model.cache(), &args, nullptr);
    CHECK(status == want);
    for (int64_t b = 0; b < batch && status == MHA_OK; ++b) {
      model.check_dropped(all[static_cast<size_t>(b)], first_kept[static_cast<size_t>(b)]);
    }
    return status == MHA_OK ? "append" : "append, full";
  }

  const char* append_twice(Model& model) {
    const Tokens tokens = random_tokens(model.config(), 2, random_.bits());
    const int64_t wrong[] = {0, model.config().max_sequences - 1, random_.below(2) != 0 ? 0 : -1};
    mha_append_args args = {};
    args.batch = 3;
    args.sequences = wrong;
    args.length = 2;
    const int64_t offsets[] = {0, 1, 1, 2};
    args.offsets = offsets;
    args.key = view(tokens.key.data());
    args.value = view(tokens.value.data());
    CHECK(mha_cache_append(cache_context(), model.cache(), &args, nullptr) == MHA_ERR_ARGUMENT);
    return "append, refused";
  }

  const char* truncate(Model& model) {
    const int64_t s = any(model), length = random_.below(model.at(s).length + 3) - 1;
    const bool can = model.can_cut(s, length);
    CHECK(mha_cache_truncate(model.cache(), s, length, nullptr) == (can ? MHA_OK : MHA_ERR_ARGUMENT));
    if (can) model.cut(&model.at(s), length);
    return can ? "truncate" : "truncate, refused";
  }

  const char* fork(Model& model) {
    const int64_t from = any(model), to = any(model);
    const int64_t length = random_.below(2) != 0 ? -1 : random_.below(model.at(from).length + 1);
    const int64_t wanted = length == -1 ? model.at(from).length : length;
    const bool can = from != to && model.at(to).length == 0 && model.can_cut(from, wanted);
    CHECK(mha_cache_fork(model.cache(), from, to, length, nullptr) == (can ? MHA_OK : MHA_ERR_ARGUMENT));
    if (!can) return "fork, refused";
    model.at(to) = model.at(from);
    model.cut(&model.at(to), wanted);
    model.check_contents(to);
    return "fork";
  }

  const char* remove(Model& model) {
    const int64_t s = any(model);
    CHECK(mha_cache_remove(model.cache(), s, nullptr) == MHA_OK);
    model.at(s) = {};
    return "remove";
  }

  const char* reset(Model& model) {
    mha_cache_reset(model.cache());
    for (ModelSequence& sequence : model.sequences) sequence = {};
    return "reset";
  }

  const char* export_some(Model& model) {
    const mha_cache_config& c = model.config();
    const int64_t s = any(model), begin = random_.below(model.at(s).length + 2);
    const int64_t count = random_.below(model.at(s).length + 2);
    const Extent key_extent = {1, count, c.num_kv_heads, c.head_dim};
    const Extent value_extent = {1, count, c.num_kv_heads, c.value_head_dim};
    Placed key(key_extent, dense_bhtd(key_extent)), value(value_extent, padded_bthd(value_extent, 2), 3);
    const bool can = model.keeps(s, begin, begin + count);
    mha_export_args args = {};
    args.sequence = s, args.begin = begin, args.count = count;
    args.key = key.mut_view(), args.value = value.mut_view();
    CHECK(mha_cache_export(model.cache(), &args, nullptr) == (can ? MHA_OK : MHA_ERR_ARGUMENT));
    const Tokens got = {key.dense(), value.dense()};
    CHECK((key.gaps_intact() && value.gaps_intact()));
    if (can) {
      CHECK(same_tokens(got, slice(c, model.at(s).tokens, begin, count)));
      return "export";
    }
    CHECK((std::all_of(got.key.begin(), got.key.end(), is_poison) &&
           std::all_of(got.value.begin(), got.value.end(), is_poison)));
    return "export, refused";
  }

  const char* save(Model& model) {
    const int64_t s = any(model);
    const int64_t leading = model.at(s).first_kept != 0 ? model.config().sink_tokens : 0;
    saved_.push_back({save_sequence(model.cache(), s), model.at(s), leading});
    if (saved_.size() > 12) saved_.erase(saved_.begin());
    return "save";
  }

  const char* load(Model& model) {
    if (saved_.empty()) return "load, nothing saved";
    const mha_cache_config& c = model.config();
    const Saved& saved = saved_[static_cast<size_t>(random_.below(static_cast<int64_t>(saved_.size())))];
    const int64_t s = any(model);
    const bool cut = saved.sequence.first_kept != 0;
    mha_status want = MHA_OK;
    Model next = model;
    if (model.at(s).length != 0) {
      want = MHA_ERR_ARGUMENT;
    } else if (cut && (c.kind != MHA_CACHE_RING || c.sink_tokens > saved.leading)) {
      want = MHA_ERR_UNSUPPORTED;
    } else {
      want = next.append({{s, saved.sequence.tokens}});
    }
    CHECK(mha_cache_load(model.cache(), s, saved.blob.data(), saved.blob.size() * sizeof(float), nullptr) == want);
    if (want != MHA_OK) return want == MHA_ERR_ARGUMENT ? "load, refused" : "load, full or cut";
    model = next;
    model.check_dropped(s, saved.sequence.first_kept);
    model.check_contents(s);
    return cut ? "load, cut" : "load";
  }

  std::vector<CachePtr> caches_;
  std::vector<Model> models_;
  std::vector<Saved> saved_;
  std::map<std::string, int> done_;
  Random random_;
};

std::vector<mha_cache_config> machine_configs(int64_t capacity, int64_t page_size, int64_t sink_tokens) {
  return {cache_config(MHA_CACHE_CONTIGUOUS, capacity, 4), cache_config(MHA_CACHE_RING, capacity, 4, 0, sink_tokens),
          cache_config(MHA_CACHE_RING, capacity + 9, 3), cache_config(MHA_CACHE_PAGED, 2 * capacity, 5, page_size)};
}

}  // namespace

TEST_CASE("cache states: random operations against plain vectors", "[cache][states]") {
  std::map<std::string, int> done;
  uint64_t seed = 200000;
  for (int64_t capacity : {1, 30, 100}) {
    for (int64_t page_size : {1, 7, 16, 64}) {
      INFO("seed " << seed << " capacity " << capacity << " page size " << page_size);
      Machine machine(machine_configs(capacity, page_size, capacity / 10 + (seed % 2 ? 17 : 0)), seed);
      machine.run(8000);
      ++seed;
      for (const auto& [name, count] : machine.done()) done[name] += count;
    }
  }
  // Every outcome was met, and often.
  for (const char* name :
       {"append", "append, full", "append, refused", "truncate", "truncate, refused", "fork", "fork, refused", "remove",
        "reset", "export", "export, refused", "save", "load", "load, refused", "load, cut", "load, full or cut"}) {
    INFO(name);
    CHECK(done[name] >= 20);
  }
}
