// SPDX-License-Identifier: Apache-2.0
// Random operations on a paged cache with reservations, against plain vectors: contents, room, bytes in use.
#include <set>

#include "core/cache/cache.h"
#include "tests/support/cache_layouts.h"
#include "tests/support/random_cases.h"
#include "tests/support/reserve.h"

using namespace mha::test;

namespace {

/// A cache as plain vectors; the pages of a paged one are numbers, those for tokens to come included.
class Model {
 public:
  struct Sequence {
    Tokens tokens;
    int64_t length = 0;
    std::vector<int> pages;
  };

  explicit Model(const mha_cache_config& given)
      : cache(make_cache(cache_context(), given)), config(config_of(cache.get())) {
    sequences.resize(static_cast<size_t>(config.max_sequences));
    page = page_bytes(given);
  }

  CachePtr cache;
  mha_cache_config config;
  std::vector<Sequence> sequences;

  bool paged() const { return config.kind == MHA_CACHE_PAGED; }
  Sequence& at(int64_t s) { return sequences[static_cast<size_t>(s)]; }
  int64_t held_pages() const {
    std::set<int> all;
    for (const Sequence& s : sequences) all.insert(s.pages.begin(), s.pages.end());
    return static_cast<int64_t>(all.size());
  }
  int64_t free_pages() const { return config.capacity / config.page_size - held_pages(); }

  int64_t room(int64_t s) {
    if (config.kind == MHA_CACHE_RING) return (int64_t{1} << 62) - at(s).length;
    if (!paged()) return config.capacity - at(s).length;
    const int64_t copied = must_copy(at(s)) ? 1 : 0, free = free_pages() - copied;
    if (free < 0) return 0;
    return (static_cast<int64_t>(at(s).pages.size()) + free) * config.page_size - at(s).length;
  }
  /// Takes the pages for so many more of each, whether they fit or not.
  std::vector<Sequence> with_room(const std::map<int64_t, int64_t>& counts, bool* fits) {
    const std::vector<Sequence> before = sequences;
    *fits = true;
    for (const auto& [s, count] : counts) {
      if (config.kind == MHA_CACHE_CONTIGUOUS) *fits &= at(s).length + count <= config.capacity;
      if (!paged() || count == 0) continue;
      Sequence& q = at(s);
      if (must_copy(q)) q.pages[static_cast<size_t>(q.length / config.page_size)] = next_page_++;
      while (static_cast<int64_t>(q.pages.size()) * config.page_size < q.length + count)
        q.pages.push_back(next_page_++);
    }
    if (paged()) *fits &= free_pages() >= 0;
    std::vector<Sequence> after = sequences;
    sequences = before;
    return after;
  }
  void cut(Sequence* s, int64_t length) {
    s->tokens = slice(config, s->tokens, 0, length), s->length = length;
    if (paged()) s->pages.resize(static_cast<size_t>((length + config.page_size - 1) / config.page_size));
  }

  void check() {
    for (int64_t s = 0; s < config.max_sequences; ++s) {
      REQUIRE(mha_cache_length(cache.get(), s) == at(s).length);
      REQUIRE(mha_cache_room(cache.get(), s) == room(s));
      const int64_t first = mha_cache_first_kept(cache.get(), s), count = at(s).length - first;
      if (!same_tokens(exported(cache.get(), s, first, count), slice(config, at(s).tokens, first, count)))
        FAIL_CHECK("sequence " << s << " differs");
    }
    if (paged()) REQUIRE(mha_cache_used_bytes(cache.get()) == static_cast<size_t>(held_pages()) * page);
  }

 private:
  bool must_copy(const Sequence& s) const {
    if (!paged() || s.length % config.page_size == 0) return false;
    const int last = s.pages[static_cast<size_t>(s.length / config.page_size)];
    int64_t holders = 0;
    for (const Sequence& other : sequences) holders += std::count(other.pages.begin(), other.pages.end(), last);
    return holders > 1;
  }

  size_t page = 0;
  int next_page_ = 0;
};

class Machine {
 public:
  Machine(int64_t capacity, int64_t page_size, uint64_t seed) : random_(seed) {
    models_.reserve(4);
    models_.emplace_back(cache_config(MHA_CACHE_PAGED, capacity, 4, page_size));
    models_.emplace_back(cache_config(MHA_CACHE_PAGED, capacity + 20, 4, page_size + 3));
    models_.emplace_back(cache_config(MHA_CACHE_CONTIGUOUS, capacity / 2 + 1, 4));
    models_.emplace_back(cache_config(MHA_CACHE_RING, capacity, 4));
  }

  void run(int operations) {
    for (int n = 0; n < operations; ++n) {
      Model& model = models_[static_cast<size_t>(random_.below(4))];
      const int64_t kind = random_.below(100);
      const char* name = kind < 20   ? append(model)
                         : kind < 30 ? append_all_the_room(model)
                         : kind < 52 ? reserve_in_some()
                         : kind < 66 ? fork(model)
                         : kind < 76 ? load(model)
                         : kind < 86 ? truncate(model)
                         : kind < 99 ? remove(model)
                                     : reset(model);
      ++done[name];
      INFO("operation " << n << ": " << name << " on " << kind_name(model.config.kind));
      for (Model& each : models_) each.check();
    }
  }

  std::map<std::string, int> done;

 private:
  int64_t any(const Model& model) { return random_.below(model.config.max_sequences); }

  mha_status grow(Model& model, const std::map<int64_t, int64_t>& counts) {
    Integers sequences, offsets{0};
    Tokens packed;
    std::map<int64_t, Tokens> more;
    for (const auto& [s, count] : counts) {
      more[s] = random_tokens(model.config, count, random_.bits() >> 8);
      sequences.push_back(s), offsets.push_back(offsets.back() + count), packed += more[s];
    }
    bool fits = true;
    const std::vector<Model::Sequence> after = model.with_room(counts, &fits);
    mha_append_args args = {};
    args.batch = static_cast<int64_t>(sequences.size()), args.sequences = sequences.data();
    args.length = offsets.back(), args.offsets = offsets.data();
    packed.key.push_back(0), packed.value.push_back(0);  // never empty
    args.key = view(packed.key.data()), args.value = view(packed.value.data());
    const mha_status status = mha_cache_append(cache_context(), model.cache.get(), &args, nullptr);
    CHECK(status == (fits ? MHA_OK : MHA_ERR_FULL));
    if (!fits) return MHA_ERR_FULL;
    model.sequences = after;
    for (const auto& [s, tokens] : more) model.at(s).tokens += tokens, model.at(s).length += counts.at(s);
    return MHA_OK;
  }
  std::map<int64_t, int64_t> any_counts(const Model& model, int64_t most) {
    std::map<int64_t, int64_t> counts;
    for (int64_t n = between(random_, 1, 3); n > 0; --n) counts[any(model)] = random_.below(most + 1);
    return counts;
  }

  const char* append(Model& model) {
    return grow(model, any_counts(model, model.config.capacity / 3 + 1)) == MHA_OK ? "append" : "append, full";
  }
  /// One more than the room is refused, the room is not.
  const char* append_all_the_room(Model& model) {
    if (model.config.kind == MHA_CACHE_RING) return append(model);
    const int64_t s = any(model), room = mha_cache_room(model.cache.get(), s);
    CHECK(grow(model, {{s, room + 1}}) == MHA_ERR_FULL);
    CHECK(grow(model, {{s, room}}) == MHA_OK);
    return room > 0 ? "all the room" : "no room";
  }
  const char* reserve_in_some() {
    std::vector<mha_cache*> caches;
    std::vector<size_t> chosen;
    for (size_t n = 0; n < models_.size(); ++n)
      if (!one_in(random_, 3)) chosen.push_back(n);
    for (size_t n = chosen.size(); n > 1; --n)
      std::swap(chosen[n - 1], chosen[static_cast<size_t>(random_.below(static_cast<int64_t>(n)))]);
    const std::map<int64_t, int64_t> counts = any_counts(models_[0], one_in(random_, 3) ? 40 : 12);
    Integers sequences, tokens;
    for (const auto& [s, count] : counts) sequences.push_back(s), tokens.push_back(count);
    bool all_fit = true;
    std::vector<std::vector<Model::Sequence>> after;
    for (const size_t n : chosen) {
      bool fits = true;
      caches.push_back(models_[n].cache.get());
      after.push_back(models_[n].with_room(counts, &fits));
      all_fit &= fits;
    }
    CHECK(reserve(caches, sequences, tokens) == (all_fit ? MHA_OK : MHA_ERR_FULL));
    if (!all_fit) return caches.size() > 1 ? "reserve in several, full" : "reserve, full";
    for (size_t n = 0; n < chosen.size(); ++n) models_[chosen[n]].sequences = after[n];
    return caches.size() > 1 ? "reserve in several" : "reserve";
  }
  const char* fork(Model& model) {
    if (model.config.kind == MHA_CACHE_RING) return "ring";
    const int64_t from = any(model), to = any(model);
    const int64_t length = one_in(random_, 2) ? model.at(from).length : random_.below(model.at(from).length + 1);
    const bool can = from != to && model.at(to).length == 0, reserved = !model.at(to).pages.empty();
    CHECK(mha_cache_fork(model.cache.get(), from, to, length, nullptr) == (can ? MHA_OK : MHA_ERR_ARGUMENT));
    if (!can) return "fork, refused";
    const bool of_reserved =
        model.paged() && static_cast<int64_t>(model.at(from).pages.size()) * model.config.page_size >
                             model.at(from).length + model.config.page_size;
    model.at(to) = model.at(from);
    model.cut(&model.at(to), length);
    return reserved ? "fork into a reservation" : of_reserved ? "fork of a reservation" : "fork";
  }
  const char* truncate(Model& model) {
    const int64_t s = any(model), first = mha_cache_first_kept(model.cache.get(), s);
    const int64_t length = one_in(random_, 3) ? model.at(s).length : between(random_, first, model.at(s).length);
    REQUIRE(mha_cache_truncate(model.cache.get(), s, length, nullptr) == MHA_OK);
    model.cut(&model.at(s), length);
    return "truncate";
  }
  const char* remove(Model& model) {
    const int64_t s = any(model);
    REQUIRE(mha_cache_remove(model.cache.get(), s, nullptr) == MHA_OK);
    model.at(s) = {};
    return "remove";
  }
  /// A sequence of the cache itself, into an empty one.
  const char* load(Model& model) {
    if (model.config.kind == MHA_CACHE_RING) return "ring";
    const int64_t from = any(model), to = any(model);
    if (model.at(to).length != 0 || model.at(from).length == 0) return "nothing to load";
    const std::vector<float> blob = save_sequence(model.cache.get(), from);
    bool fits = true;
    const std::vector<Model::Sequence> after = model.with_room({{to, model.at(from).length}}, &fits);
    CHECK(mha_cache_load(model.cache.get(), to, blob.data(), blob.size() * sizeof(float), nullptr) ==
          (fits ? MHA_OK : MHA_ERR_FULL));
    if (!fits) return "load, full";
    const bool reserved = !model.at(to).pages.empty();
    model.sequences = after;
    model.at(to).tokens = model.at(from).tokens, model.at(to).length = model.at(from).length;
    return reserved ? "load into a reservation" : "load";
  }
  const char* reset(Model& model) {
    mha_cache_reset(model.cache.get());
    for (Model::Sequence& s : model.sequences) s = {};
    return "reset";
  }

  std::vector<Model> models_;
  Random random_;
};

}  // namespace

TEST_CASE("reserve: random operations against plain vectors, with reservations", "[cache][reserve][states]") {
  std::map<std::string, int> done;
  uint64_t seed = 910000;
  for (const int64_t capacity : {40, 90}) {
    for (const int64_t page_size : {1, 5, 16}) {
      INFO("seed " << seed << " capacity " << capacity << " page size " << page_size);
      Machine machine(capacity, page_size, seed++);
      machine.run(4000);
      for (const auto& [name, count] : machine.done) done[name] += count;
    }
  }
  for (const char* name :
       {"append", "append, full", "all the room", "no room", "reserve", "reserve, full", "reserve in several",
        "reserve in several, full", "fork", "fork, refused", "fork into a reservation", "fork of a reservation",
        "truncate", "remove", "reset", "load", "load, full", "load into a reservation"}) {
    INFO(name);
    CHECK(done[name] >= 15);
  }
}
