// SPDX-License-Identifier: Apache-2.0
// The pages of a cache: which are free, and how many sequences hold each of the others. Shared by the writers of
// different sequences, so everything but page_number is called with the lock held.
#pragma once

#include <sched.h>

#include <cstdint>

namespace mha {

// Held for a short count, and while a page that sequences share is copied.
class SpinLock {
 public:
  void lock() {
    while (__atomic_test_and_set(&taken_, __ATOMIC_ACQUIRE)) {
      // The holder may be waiting for this CPU.
      for (int spins = 0; __atomic_load_n(&taken_, __ATOMIC_RELAXED); ++spins) {
        if (spins % kSpins == kSpins - 1) sched_yield();
      }
    }
  }
  void unlock() { __atomic_clear(&taken_, __ATOMIC_RELEASE); }

 private:
  static constexpr int kSpins = 64;
  bool taken_;
};

class Locked {
 public:
  explicit Locked(SpinLock& lock) : lock_(lock) { lock_.lock(); }
  ~Locked() { lock_.unlock(); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  SpinLock& lock_;
};

struct PagePool {
  char* base;  // page n begins at base + n * page_bytes
  int64_t page_bytes;
  int64_t count;
  int64_t* holders;     // [count]: sequences that hold the page
  int64_t* leaving;     // [count]: sequences of a batch that will copy the page; zeros outside pages_needed
  int64_t* free_pages;  // [count]: a stack of free_count page numbers
  int64_t free_count;
};

inline int64_t page_number(const PagePool& pool, const char* page) { return (page - pool.base) / pool.page_bytes; }

// Makes all pages free; they are then taken in order.
void empty_pool(PagePool* pool);
// A page must be free.
char* take_page(PagePool* pool);
void share_page(PagePool* pool, const char* page);
void release_page(PagePool* pool, const char* page);

}  // namespace mha
