// SPDX-License-Identifier: Apache-2.0
// MHA_TEST_SANITIZER: whether this is a build with a sanitizer, which has malloc, stacks and address space of its own.
#ifndef MHA_TESTS_SUPPORT_SANITIZER_H
#define MHA_TESTS_SUPPORT_SANITIZER_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define MHA_TEST_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MHA_TEST_SANITIZER 1
#endif

#endif  // MHA_TESTS_SUPPORT_SANITIZER_H
