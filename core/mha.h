/* SPDX-License-Identifier: Apache-2.0
 * mha: multi-head attention for CPUs. This is the whole public interface, in C11 (and clean as C++17).
 *
 * Promises (tests/README.md names the test of each):
 *   - There is no global state, no printing, no abort, no exception. A call that returns an error writes no result and
 *     leaves all sequences of a cache as they were.
 *   - A call on one thread uses no thread runtime. A call that is given its workspace allocates nothing.
 *   - A result is a pure function of the values of its inputs: the same bits for any thread count, batch, split of the
 *     queries, strides, cache or pages (kind, page size, history), and FMA target (all but sse2, the baseline without
 *     fused multiply-add; see mha_target_same_bits). In INT8 arithmetic sse2 has these bits, too.
 *   - Masks, positions and score changes combine freely and run in the attention kernels, without a Tq x Tk matrix. A
 *     combination that is not implemented returns MHA_ERR_UNSUPPORTED; there is no silent slow path (mha_*_explain).
 *   - No call reads or writes outside the stated extents. No alignment is needed beyond that of the element type.
 *
 * Every struct may be zeroed: zero and NULL mean the default. A call takes one args struct, which begins with the
 * fields that every call needs; pointers to groups that few calls need follow. Arguments, groups and the data they
 * point to are read during the call only, unless a comment says "kept". A field that the call would ignore is refused
 * (MHA_ERR_ARGUMENT), so that no request is silently lost; exceptions are the strides of dimensions of one element,
 * mha_positions.align and .offset where nothing depends on positions, mha_masks.sink_tokens and .prefix_lengths where no
 * window and no causality hides keys, and the dtype of a view without data.
 *
 * Words: B batch, H query heads, Hkv key/value heads, Tq / Tk query / key length, T tokens, D head dim of query and
 * key, Dv head dim of value, E embed_dim. "item": an item of the batch. "packed" items follow each other without
 * padding. "codes" are integers with scales, which stand for floats. Strides count elements, not bytes.
 *
 * A newcomer needs: mha_context_create, mha_attention_args with MHA_VIEW and MHA_MUT_VIEW, mha_attention. Tensors are
 * [B, T, H, D] unless strides say otherwise; torch's [B, H, T, D] is stride_b = H * T * D, stride_t = D,
 * stride_h = T * D. A size that was forgotten is 0: batch or query_len 0 succeeds and writes nothing, key_len 0 gives
 * zeros, num_kv_heads 0 is num_heads.
 *
 * Later versions: a struct keeps its size, a field its place and meaning. New fields take the place of `reserved*`;
 * zero in them means the behaviour of this version. A `reserved*` field that is not zero is MHA_ERR_ARGUMENT: the
 * caller was built for a newer library. So an old program runs on a newer shared library, and a newer program gets an
 * error where an old library cannot do what it asks.
 */
#ifndef MHA_MHA_H
#define MHA_MHA_H

#include <stddef.h>
#include <stdint.h>

#define MHA_VERSION_MAJOR 0
#define MHA_VERSION_MINOR 2
#define MHA_VERSION_PATCH 0

#if defined(MHA_SHARED) && defined(_WIN32)
#if defined(MHA_BUILDING)
#define MHA_API __declspec(dllexport)
#else
#define MHA_API __declspec(dllimport)
#endif
#elif defined(MHA_SHARED) && defined(__GNUC__)
#define MHA_API __attribute__((visibility("default")))
#elif defined(MHA_BUILDING) && defined(__GNUC__)
/* Hidden, because a static copy belongs to one program or plug-in. Exported names could be taken for those of another
 * version in the same process. */
#define MHA_API __attribute__((visibility("hidden")))
#else
#define MHA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------------------------------
 * Status
 */

typedef enum mha_status {
  MHA_OK = 0,
  MHA_ERR_NULL = 1,          /* a pointer that must be given is NULL */
  MHA_ERR_ARGUMENT = 2,      /* a value out of range, an unknown enum value, a field that this call does not use */
  MHA_ERR_SHAPE = 3,         /* sizes that do not fit each other; both or neither of two alternatives given */
  MHA_ERR_STRIDE = 4,        /* a stride that is not supported; results that overlap */
  MHA_ERR_OVERFLOW = 5,      /* a size, an offset or a product of sizes does not fit in 63 bits */
  MHA_ERR_BUFFER = 6,        /* a buffer is smaller than its *_bytes call says (workspace, partials, blob, memory) */
  MHA_ERR_OUT_OF_MEMORY = 7, /* the allocator returned NULL */
  MHA_ERR_TARGET = 8,        /* the chosen target is unknown, not built in, or not supported by this CPU */
  MHA_ERR_BLOB = 9,          /* a blob is damaged, truncated, or of another format version or byte order */
  MHA_ERR_UNSUPPORTED = 10,  /* a combination that this version does not implement */
  MHA_ERR_FULL = 11,         /* a cache has no room for the new tokens: truncate or remove a sequence first
                                (mha_cache_room says how much room there is) */
  MHA_ERR_THREAD = 12        /* a thread cannot be made, or the thread runtime is not built in */
} mha_status;

/* What went wrong, as text for a person that names the argument and its value. It is the last parameter of every call
 * that can fail. The call fills it on failure only. It may be NULL. The caller owns it. */
typedef struct mha_error {
  mha_status status;
  char message[244]; /* zero-terminated */
} mha_error;

/* The name of an mha_status ("MHA_ERR_SHAPE"), "unknown status" for any other number; static storage. */
MHA_API const char* mha_status_string(int status);
/* "0.2.0": the version of the linked library, to compare with MHA_VERSION_*; static storage. */
MHA_API const char* mha_version(void);
/* The same version as a number: major * 10000 + minor * 100 + patch. */
MHA_API int mha_version_number(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Targets: one for each set of instructions that is built into the library, best first ("avx512", "avx2", "sse2";
 * "neon").
 */

/* Number of targets that are built in. */
MHA_API int64_t mha_target_count(void);
/* Name of target `index`; NULL outside [0, mha_target_count()); static storage. */
MHA_API const char* mha_target_name(int64_t index);
/* 1 if this CPU and operating system can run target `index`, else 0. */
MHA_API int mha_target_supported(int64_t index);
/* 1 if results of target `index` have the bits that all targets with fused multiply-add share; 0 for sse2, which has
 * none, and outside [0, mha_target_count()). */
MHA_API int mha_target_same_bits(int64_t index);

/* ---------------------------------------------------------------------------------------------------------------------
 * Context: which threads, target and memory a call uses. Immutable; any number of threads may share it.
 */

typedef struct mha_context mha_context;

/* Memory for handles, packed weights, and the workspace of calls that are given none. The library calls it from the
 * thread that calls the library. allocate returns NULL on failure; release gets the same `bytes` as allocate did. */
typedef struct mha_allocator {
  void* user;
  void* (*allocate)(void* user, size_t bytes, size_t alignment); /* NULL: the library's own allocator */
  void (*release)(void* user, void* block, size_t bytes);
} mha_allocator;

/* The host's own threads. run must call task(task_data, i) once for each i in [0, count), on any threads, in any order,
 * in parallel or one after the other, and return when all are done; count <= num_threads. One call of the library calls
 * run 0 to 8 times: never if it works on one thread. */
typedef struct mha_parallel_for {
  void* user; /* a call may give another: mha_resources.parallel_user */
  void (*run)(void* user, int64_t count, void (*task)(void* task_data, int64_t index),
              void* task_data); /* NULL: as mha_threading says */
} mha_parallel_for;

/* Whose threads a call uses. OpenMP's and the pool's threads are at most one for each CPU; a host's run gets a count of
 * at most num_threads. The child of a fork has none of its parent's threads. There the caller works alone, with the
 * same bits: with OpenMP, if its thread had used OpenMP before the fork; with the pool, if the context was made before
 * the fork (a new context has threads). */
typedef enum mha_threading {
  MHA_THREADING_DEFAULT = 0, /* parallel_for if given; else OpenMP, or the pool in a library built without OpenMP */
  MHA_THREADING_OPENMP = 1,  /* MHA_ERR_THREAD in a library built without OpenMP */
  MHA_THREADING_POOL = 2     /* threads of the context's own. mha_context_create makes all of them (num_threads - 1, but
                                no more than there are CPUs); mha_context_destroy joins them. They serve one call at a
                                time: a call that comes while another runs works alone, with the same bits */
} mha_threading;

typedef struct mha_context_options {
  int64_t num_threads;        /* 0: the CPUs of this thread's affinity and cgroup quota; 1: no thread runtime is used */
  const char* target;         /* NULL: the environment's MHA_TARGET if set, else the best target for this CPU */
  mha_threading threading;    /* refused together with parallel_for, unless DEFAULT */
  int no_process_permissions; /* not 0: never request a permission for the whole process (AMX's tiles) from the kernel;
                                 targets that need one (amx) are skipped. Otherwise it is requested when a context
                                 may choose amx; where the kernel refuses, as it does where an alternate signal stack
                                 is too small for tiles, the next target is chosen. The process keeps the permission */
  mha_parallel_for parallel_for;
  mha_allocator allocator;
  uint64_t reserved[8];
} mha_context_options;

/* Makes a context. options NULL: all defaults. On failure *context is NULL and no thread is left.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (num_threads outside [0, 1024], half an allocator, a user
 *          pointer without its function, an unknown threading, or one given with parallel_for.run; reserved);
 *          MHA_ERR_TARGET; MHA_ERR_THREAD; MHA_ERR_OUT_OF_MEMORY. */
MHA_API mha_status mha_context_create(const mha_context_options* options, mha_context** context, mha_error* error);
/* Frees the context; NULL is allowed. No call that uses it may be running. Handles made with it may outlive it. */
MHA_API void mha_context_destroy(mha_context* context);
MHA_API const char* mha_context_target(const mha_context* context); /* name of the target chosen */
/* num_threads as given, or its default: the most threads that a call uses, if there are as many CPUs. */
MHA_API int64_t mha_context_num_threads(const mha_context* context);

/* What the host lends to one call; the same group in every args struct. */
typedef struct mha_resources {
  void* workspace;        /* any alignment; NULL: the context's allocator gives it for the duration of the call */
  size_t workspace_bytes; /* of `workspace`: at least what the call's *_workspace_bytes says. Refused without it */
  int64_t max_threads;    /* the call uses at most this many threads of the context; 0: all. Workspace bytes depend on
                             it, results do not */
  void* parallel_user;    /* passed to parallel_for.run instead of parallel_for.user; NULL: parallel_for.user */
  uint64_t reserved[4];
} mha_resources;

/* ---------------------------------------------------------------------------------------------------------------------
 * Tensors
 */

/* How an element is stored. 0 is float, so a zeroed view is a view of floats.
 *
 * The widening law: a call over F16 or BF16 tensors has, in every bit, the results of the same call over the tensors
 * widened to F32, which is exact; a result of 16 bits is that result rounded once. Codes are widened to the values that
 * mha_quant defines. Any mix of types is allowed.
 * Rounding is to nearest even; beyond the greatest value it gives an infinity (F16: from 65520 on). Denormals of F16
 * are numbers like others (normal as floats) and are rounded to; those of BF16 are denormal as floats, so calls read
 * them as 0, but storing keeps them. A NaN keeps its sign and the upper bits of its payload; rounding makes it quiet,
 * and so does widening from F16. */
typedef enum mha_dtype {
  MHA_F32 = 0,
  MHA_F16 = 1,   /* IEEE binary16 */
  MHA_BF16 = 2,  /* the upper half of a float */
  MHA_I8 = 3,    /* codes, see mha_quant: -128 .. 127 */
  MHA_U8 = 4,    /* codes: 0 .. 255 */
  MHA_I4 = 5,    /* codes -8 .. 7 stored as 0 .. 15, two in a byte, lower nibble first; rows begin at a byte, so
                    strides are even */
  MHA_U4 = 6,    /* codes 0 .. 15, stored in the same way */
  MHA_Q8_0 = 16, /* ggml's blocks of 32 codes with their f16 scale inside, aligned to 2 bytes; strides are multiples of
                    32 elements */
  MHA_Q4_0 = 17  /* the same with 4-bit codes */
} mha_dtype;

typedef struct mha_f16 {
  uint16_t bits;
} mha_f16; /* separate types, so that a wrong pointer does not compile; cast ggml_fp16_t*, _Float16*, uint16_t* */
typedef struct mha_bf16 {
  uint16_t bits;
} mha_bf16;

/* The scales of codes: value = scale * (code - zero), each operation rounded to float. Element (b, t, h, d) has
 *   scales[b * stride_b + t / group_tokens * stride_t + h * stride_h + d / group * stride_d]
 * and the zero at the same place. Here a stride of 0 repeats. So a struct with nothing but `scales` is one scale for
 * the whole tensor; stride_b, _t and _h alone give each token and head a scale; group 1 and stride_d 1 give each
 * channel a scale. Scales may be negative; one that is denormal as a float counts as 0; NaN and infinities go into the
 * values. In the caller's pages b is the page and t the token's place in it; with packed keys b is 0 and t counts all.
 * MHA_Q8_0 and MHA_Q4_0 have their scales inside the rows and no mha_quant; rows are whole blocks. */
typedef struct mha_quant {
  const void* scales;
  const void* zeros;          /* in the layout of scales (MHA_U4: see zero_dtype); NULL: 0 (MHA_U8: 128, MHA_U4: 8) */
  const int32_t* group_index; /* [in_features] of weights: GPTQ's act-order; given: MHA_ERR_UNSUPPORTED */
  mha_dtype scale_dtype;      /* MHA_F32, MHA_F16, MHA_BF16 */
  mha_dtype zero_dtype;       /* MHA_F32, MHA_F16, MHA_I8, MHA_U8; of weights also MHA_U4: two in a byte, the lower
                                 nibble first, those of a row one after the other, and rows begin at a byte (stride_t,
                                 which counts zeros, is rounded up to an even number), or as mha_weight_layout says */
  int64_t group;              /* elements of a row that share a scale; 0: the whole row */
  int64_t group_tokens;       /* tokens that share a scale; 0: 1 */
  int64_t stride_b, stride_t, stride_h, stride_d;
  int hadamard; /* not 0: rows were rotated by a Walsh-Hadamard matrix before they were rounded (mha_storage) */
  int reserved_int;
  uint64_t reserved[2];
} mha_quant;

#define MHA_BROADCAST (-1) /* as a stride: every index reads the same element */

/* A tensor to read: element (b, t, h, d) is at data + b * stride_b + t * stride_t + h * stride_h + d; the last
 * dimension is dense. If all three strides are 0, the tensor is dense in the order stated where the view is used.
 * Otherwise each dimension of more than one element needs its stride (0: MHA_ERR_STRIDE); MHA_BROADCAST repeats one
 * element. `const void*` takes every element type, so the compiler cannot check it: make views with MHA_VIEW (C) or
 * mha::view (C++), which take the dtype from the pointer and do not compile for other types. */
typedef struct mha_view {
  const void* data; /* aligned to the element type: float 4 bytes, f16, bf16 and ggml's blocks 2, others 1 */
  mha_dtype dtype;
  int reserved;
  int64_t stride_b, stride_t, stride_h; /* >= 0 or MHA_BROADCAST */
  const mha_quant* quant;               /* codes only; otherwise NULL */
} mha_view;

/* A tensor to write. Distinct elements must not overlap: a stride may be 0 only where its dimension is <= 1 (all three
 * 0: dense), and MHA_BROADCAST is not allowed. f16 and bf16 are rounded once, to nearest even. */
typedef struct mha_mut_view {
  void* data;
  mha_dtype dtype; /* MHA_F32, MHA_F16, MHA_BF16; codes only in mha_rows_prepare and mha_cache_export */
  int reserved;
  int64_t stride_b, stride_t, stride_h;
} mha_mut_view;

#ifndef __cplusplus /* C++: mha::view and mha::mut_view of mha.hpp */
#define MHA_DTYPE(p) \
  _Generic((p),                    \
      float*: MHA_F32,             \
      const float*: MHA_F32,       \
      mha_f16*: MHA_F16,           \
      const mha_f16*: MHA_F16,     \
      mha_bf16*: MHA_BF16,         \
      const mha_bf16*: MHA_BF16)
#define MHA_CODE_DTYPE(p) \
  _Generic((p), int8_t * : MHA_I8, const int8_t* : MHA_I8, uint8_t* : MHA_U8, const uint8_t* : MHA_U8)
#define MHA_MUT_DTYPE(p) _Generic((p), float* : MHA_F32, mha_f16* : MHA_F16, mha_bf16* : MHA_BF16)
/* A dense view; set the strides afterwards for a tensor that is not dense. */
#define MHA_VIEW(p) ((mha_view){.data = (p), .dtype = MHA_DTYPE(p)})
#define MHA_MUT_VIEW(p) ((mha_mut_view){.data = (p), .dtype = MHA_MUT_DTYPE(p)})
/* A view of 8-bit codes with their scales; `q` is a const mha_quant*. */
#define MHA_CODES(p, q) ((mha_view){.data = (p), .dtype = MHA_CODE_DTYPE(p), .quant = (q)})
#endif

/* How products are computed; the storage of the operands is a separate choice. Defined for these pairs of (key type,
 * value type), which may differ. Any other pair, and any pair that the last column does not have, is
 * MHA_ERR_UNSUPPORTED:
 *
 *   arithmetic | keys, values: any pair of                                       | in this version
 *   F32        | F32, F16, BF16, I8, U8, I4, U4, Q8_0, Q4_0 (mha_quant: any)     | all; caches do not store Q8_0, Q4_0
 *   BF16       | the same                                                        | all
 *   INT8       | I8 (one scale for a row, a tensor or what lies between; zeros   | all, D <= 1024
 *              | NULL)                                                           |
 *
 * Query and output are F32, F16 or BF16 in each of them. Weights of a linear or a layer: F32 and BF16 over any type; INT8
 * over codes of any type whose zeros are integers, and over floats, which it rounds to I8 with a scale for each output
 * unless `packed` says otherwise.
 *
 * BF16: queries, keys and values, widened as in F32, are rounded to bf16 once, to nearest even, and so are the softmax's
 * weights, to seven bits and an exponent (within 2^-7.5). Products and sums are floats, in the order of AMX's TDPBF16PS
 * (core/README.md); scale, masks and score changes are applied to the sums, in floats. All promises of F32 hold, among
 * results of BF16: the same bits for prefill and decode, threads, batch, caches and every FMA target. Targets without
 * FMA (sse2), and a library built with -DMHA_BF16=OFF, have MHA_ERR_UNSUPPORTED. Where a target only emulates it,
 * mha_attention_explain says so. Measured error: tests/README.md.
 *
 * INT8: sums of products of integers are exact, and each operation around them is rounded, none fused. So the bits are the
 * same on every target, sse2 included (norm and rotation of rows are not part of it: without FMA they differ in the last
 * bits). All other promises of F32 hold, among results of INT8. a is the greatest magnitude of the numbers that are rounded
 * together: they count as 0 where a < 2^-100, and what depends on them is a NaN where one is not finite.
 *   Attention: a query becomes v = nearest(q * (16256 / a)), 15 bits; a score is float(sum v * code) * (a / 16256 * scale)
 *   times the key's scale. In each chunk of 256 keys the base of the softmax is the maximum, rounded up to an integer in
 *   log2, and weights times the values' scales, g, become u = nearest(g * (32767 / a)); the chunk's output is
 *   float(sum u * code) * (a / 32767). Scales of values may be negative.
 *   Linear: inputs that share a scale of the weights, at most 32,768, become nearest(x * (127 / a)); the output is the sum
 *   of float(sum of products) * (a / 127 * weight's scale) over these groups, ascending, then the bias. */
typedef enum mha_arithmetic {
  MHA_ARITHMETIC_F32 = 0,  /* over the stored values, widened exactly: the same bits on every FMA target */
  MHA_ARITHMETIC_BF16 = 1, /* operands rounded to bf16, AMX's order of sums: the same bits on every FMA target */
  MHA_ARITHMETIC_INT8 = 2  /* operands rounded to integers, exact products: the same bits on every target */
} mha_arithmetic;

/* How the library stores values (caches, packed weights, rows). Zeroed: as floats. Packed weights have no hadamard and no
 * fixed (MHA_ERR_UNSUPPORTED).
 *
 * Rounding to codes has the same bits on every target. x are the elements that share a scale; denormals count as 0.
 *   symmetric:         8 bits: scale = max |x| / 127; 4 bits: scale = m / -8, m the x of greatest magnitude (of m and
 *                      -m the positive one), as ggml does. Zeros are those that mha_quant has by default
 *   with zero_points:  scale = (max(x, 0) / 2 - min(x, 0) / 2) / (n / 2), n = 255 or 15; zero = the least code +
 *                      nearest(-min(x, 0) * inverse), an integer of the codes' range
 *   all:               scale is rounded to scale_dtype, but is not 0 unless all x are: at least 2^-24 (MHA_F16) or
 *                      2^-126 in magnitude. inverse = 1 / scale as stored; code = nearest(x * inverse) + zero, clamped
 * nearest is to even. If an x is a NaN or an infinity, or scale_dtype does not reach as far as the scale, the scale is
 * a NaN and so are all values that share it. With fixed scales a NaN becomes 0, an infinity the first or the last code
 * (0 where the scale is 0 or not finite); where a fixed zero is not whole, its fraction is added before rounding, its
 * nearest integer after.
 *
 * hadamard spreads what a few large elements hold over the row (arXiv 2404.00456), which 4 bits need most. A row is cut
 * into blocks of n elements, n the largest power of two that divides its width (a multiple of 16, at most 1024; else
 * MHA_ERR_UNSUPPORTED). For distance = 1, 2, 4, ..., n / 2, elements i and i + distance of a block, where i has not that
 * bit, become their sum and their difference; then each is multiplied by 1 / sqrt(n); every operation is rounded to
 * float, and what overflows is an infinity. The matrix is its own inverse. Attention rotates queries alike, after norm
 * and rope, where keys are rotated, and rotates the output back, before it is rounded, where values are; so its bits are
 * those of the f32 call over rotated queries and stored rows, rotated back. Log-sum-exp and weights are those of that
 * call. */
typedef struct mha_storage {
  mha_dtype dtype;        /* MHA_F32, MHA_F16, MHA_BF16, MHA_I8, MHA_U8, MHA_I4, MHA_U4 */
  mha_dtype scale_dtype;  /* of codes: MHA_F32, MHA_F16, MHA_BF16 */
  int64_t group;          /* elements that share a scale, a multiple of 16; 0: the row of a token and head, or of an
                             output channel */
  int zero_points;        /* not 0: every scale has a zero, MHA_I8 for signed codes, else MHA_U8; 0: symmetric */
  int hadamard;           /* not 0: rows are rotated by a Walsh-Hadamard matrix before they are rounded */
  const mha_quant* fixed; /* scales, and zeros if any, known in advance: per tensor, or by stride_h, group and stride_d
                             per head and channel; copied by mha_cache_create. The other fields but dtype are then 0,
                             and no scales are stored. NULL: computed from each row */
  uint64_t reserved[2];
} mha_storage;

/* The error of storing: the difference between the stored and the given values; of rows that hadamard rotates, after the
 * rotation. Zeros where nothing was rounded. */
typedef struct mha_storage_error {
  double max;       /* the largest |stored - given| */
  double rms;       /* root of the mean of (stored - given)^2 */
  double rms_given; /* root of the mean of given^2: rms / rms_given is the relative error */
  int64_t elements;
  uint64_t reserved[4];
} mha_storage_error;

/* ---------------------------------------------------------------------------------------------------------------------
 * Groups: the same for mha_attention and mha_layer_forward
 */

/* For items of unequal length. NULL: all have the same length. Item b has Tq_b queries and Tk_b keys. */
typedef struct mha_items {
  const int64_t* query_offsets; /* [B+1], ascending from 0 to query_len, which is the sum of all Tq_b: query and output
                                   are packed ([query_len, H, D], stride_b unused), and item b has the queries
                                   [offsets[b], offsets[b+1]) (flash-attn's cu_seqlens_q); NULL: Tq each */
  const int64_t*
      key_offsets; /* [B+1], ascending from 0 to key_len, the sum of all Tk_b: the same for key and value; NULL:
                      Tk each. Refused in self-attention of a layer, where query_offsets pack the keys, too */
  const int64_t* key_lengths; /* [B], each in [0, key_len]: Tk_b of a padded tensor, or of the caller's pages; keys
                                   beyond it are not read. Refused with packed keys and with a cache. Queries are
                                   not masked: rows beyond a padded prompt are computed; ignore them (finite inputs
                                   give finite rows) */
  const int64_t* sequences;   /* [B] of a cache; a sequence may come twice unless tokens are appended; NULL: 0 .. B-1 */
  uint64_t reserved[4];
} mha_items;

/* Query i of item b stands at position p(i), key j at j. Causality, windows, ALiBi and relative bias depend on
 * positions; so does rope, unless it is given positions of its own. */
typedef enum mha_align {
  MHA_ALIGN_DEFAULT = 0, /* MHA_ALIGN_END. With key_lengths, where anything depends on positions, MHA_ERR_ARGUMENT:
                            choose one, because padded prompts begin at START and new tokens over a padded cache stand
                            at its END */
  MHA_ALIGN_START = 1,   /* p(i) = i: query 0 at key 0. Rarely right with a cache that has tokens already */
  MHA_ALIGN_END = 2,     /* p(i) = i + Tk_b - Tq_b: the last query at the last key. If Tq_b > Tk_b, the first queries
                            stand before key 0: in a causal call they see no key, and their rows are zeros */
  MHA_ALIGN_OFFSET = 3   /* p(i) = i + offset, or i + offsets[b] */
} mha_align;

typedef struct mha_positions {
  mha_align align;
  int reserved_int;
  int64_t offset;         /* MHA_ALIGN_OFFSET only; may be negative, |offset| <= 2^62 */
  const int64_t* offsets; /* [B], instead of offset */
  const int64_t* query;   /* for rope only, each in [0, 2^31): [B, Tq] dense, or packed as query; NULL: p(i) */
  const int64_t* key;     /* for rope only, in mha_layer_forward with keys of its own: [B, Tk] dense, or packed as key;
                             NULL: j. In self-attention a key has the position of its token: `query` where given, else
                             j, or with a cache the token's number in its sequence */
  uint64_t reserved[4];
} mha_positions;

/* Masks of single keys: entry (b, h, i, j) is at b * stride_b + h * stride_h + i * stride_q + j * stride_k. Unlike in a
 * view, a stride of 0 repeats, except that stride_k 0 means 1 (MHA_BROADCAST: one entry for all keys). So a mask with
 * nothing but data is one row [Tk] for all queries; [Tq, Tk] needs stride_q = Tk, [B, Tk] needs stride_b = Tk. data
 * NULL: no mask, and the strides must be 0. */
typedef struct mha_bool_mask {
  const uint8_t* data; /* not 0: query i may see key j, as True in torch's scaled_dot_product_attention (the opposite of
                          nn.MultiheadAttention's key_padding_mask and boolean attn_mask) */
  int64_t stride_b, stride_h, stride_q, stride_k;
} mha_bool_mask;

typedef struct mha_add_mask {
  const void* data; /* added to the scaled score; -inf hides the key */
  mha_dtype dtype;  /* MHA_F32, MHA_F16, MHA_BF16 */
  int reserved;
  int64_t stride_b, stride_h, stride_q, stride_k;
} mha_add_mask;

/* One bit for each key: bit j % 8 (lowest first) of byte j / 8 of row (b, h, i), which begins at
 * data + b * stride_b + h * stride_h + i * stride_q; strides count bytes. Set = visible. data NULL: no mask. */
typedef struct mha_bit_mask {
  const uint8_t* data;
  int64_t stride_b, stride_h, stride_q;
} mha_bit_mask;

/* Block-sparse: queries are divided into blocks of query_block, keys into blocks of key_block, counted within the item.
 * A query sees the keys of the blocks that its block is paired with. The pairs of a list ascend and are distinct;
 * blocks beyond the lengths have no effect. pairs NULL: no mask; pairs given and num_pairs 0: no key is visible. */
typedef struct mha_block_mask {
  int64_t query_block, key_block; /* >= 1 */
  const int64_t* pairs;           /* [num_pairs][2]: (query block, key block) */
  int64_t num_pairs;
  const int64_t* pair_offsets; /* [B*H + 1], ascending from 0 to num_pairs: head h of item b has the pairs from
                                  offsets[b*H + h] to offsets[b*H + h + 1]; NULL: every head has all pairs */
} mha_block_mask;

/* All given masks apply. Query i sees key j < Tk_b if all of these hold:
 *   (j <= p(i) if causal, and window_right), or j < prefix_lengths[b]
 *   window_left, or j < sink_tokens
 *   segments, block_mask, bit_mask, bool_mask, add_mask (times its factor) and add_mask2 != -inf
 * Chunks of 256 keys that no query of a block sees are not read (of additive masks: where all entries are -inf).
 * Masked keys, values and entries never affect a result, not even by a NaN or Inf in them.
 * A row with no visible key gives zeros (attention weights 0, log-sum-exp -inf); so does a row whose visible scores are
 * all -inf. */
typedef struct mha_masks {
  int64_t window_left;  /* n >= 1: keys j > p(i) - n, that is the n newest keys, including the query's own
                                    (flash-attn's window_size is n - 1); 0: all */
  int64_t window_right; /* n >= 1: keys j < p(i) + n; 0: all */
  int64_t sink_tokens;  /* window_left does not hide keys j < sink_tokens (StreamingLLM). Not the sink_logits of
                                    mha_score_mods */
  const int64_t* prefix_lengths; /* [B], each >= 0: causal and window_right do not hide keys j < prefix_lengths[b]
                                    (prefix-LM); NULL: none */
  const int32_t* query_segments; /* [B, Tq] dense (packed as query where items differ in length) and */
  const int32_t* key_segments;   /* [B, Tk] (packed as key; with a cache: Tk_b of each item, packed): query i sees only
                                    keys of its own segment. Both or none */
  mha_bool_mask bool_mask;
  mha_add_mask add_mask;
  mha_add_mask add_mask2; /* score + add_mask, rounded, + add_mask2: for example a padding mask and a bias */
  mha_bit_mask bit_mask;
  mha_block_mask block_mask;
  /* [H]: entries of add_mask (not of add_mask2) are multiplied by the head's factor, and rounded, before they are added
   * (ggml's max_bias: ALiBi's slopes times a mask of any values). Each finite, > 0, no denormal. Refused without
   * add_mask. NULL: ones */
  const float* add_mask_factors;
  uint64_t reserved[7];
} mha_masks;

/* Changes of scores other than masks. The order is: softcap, biases, masks, the softmax with its sink. A bias or a sink
 * that is NaN makes every row NaN that sees it; a sink of -inf counts as none. With a sink, a row with no visible key
 * still gives zeros, and its log-sum-exp is the sink's logit. The relative error of tanh is at most 3.2e-7 (6e-7
 * without FMA).
 *   score = cap * tanh(scale * <q, k> / cap) - alibi_slopes[h] * |p(i) - j| + relative_bias[h, j - p(i)] + masks
 *   weight_j = exp(score_j) / (sum over visible keys of exp(score) + exp(sink_logits[h])) */
typedef struct mha_score_mods {
  float softcap; /* cap > 0 (Gemma 2, Grok), finite, no denormal; 0: none */
  int reserved_int;
  const float* alibi_slopes;  /* [H], each finite; NULL: none (arXiv 2108.12409) */
  const float* relative_bias; /* [H, relative_left + relative_right + 1]: entry relative_left + (j - p(i)); a distance
                                 beyond an end has that end's entry; NULL: none. mha_t5_bias makes one from buckets */
  int64_t relative_left, relative_right; /* >= 0; with relative_bias */
  const float* sink_logits;              /* [H]: a learned logit for each head, which takes attention weight and adds
                                            nothing to the output (gpt-oss); zeros: "smooth softmax". log_sum_exp
                                            includes it; weights have no column for it. NULL: none */
  uint64_t reserved[16];
} mha_score_mods;

/* RMS norm of rows of D elements, before rotation: x / sqrt(mean(x^2) + epsilon) * weight (arXiv 1910.07467). */
typedef struct mha_norm {
  float epsilon; /* > 0, finite, no denormal */
  int reserved_int;
  const float* weight; /* [D]; NULL: ones */
  uint64_t reserved[2];
} mha_norm;

typedef enum mha_rope_style {
  MHA_ROPE_HALF = 0,       /* pairs (d, d + dims/2): GPT-NeoX, Llama as Hugging Face stores it */
  MHA_ROPE_INTERLEAVED = 1 /* pairs (2d, 2d + 1): GPT-J, Llama as Meta stores it */
} mha_rope_style;

typedef enum mha_rope_scaling {
  MHA_ROPE_SCALING_NONE = 0,
  MHA_ROPE_SCALING_LINEAR = 1, /* positions / factor */
  MHA_ROPE_SCALING_LLAMA3 = 2, /* Llama 3.1: factor, low_freq_factor, high_freq_factor, original_positions */
  MHA_ROPE_SCALING_YARN = 3    /* arXiv 2309.00071: factor, beta_fast, beta_slow, original_positions,
                                  attention_factor */
} mha_rope_scaling;

/* Rotary positions (RoPE, arXiv 2104.09864). Pair d < dims/2 of a row at position p is rotated by the angle
 * p * base^(-2 d / dims), changed by scaling; the other D - dims elements stay as they are. A pair (x1, x2) becomes
 * (x1 cos - x2 sin, x2 cos + x1 sin). Angles, sine and cosine are computed in double and rounded to float: the same
 * bits on every target. */
typedef struct mha_rope {
  mha_rope_style style;
  mha_rope_scaling scaling;
  int64_t dims;  /* even, <= D and <= 1024: the first elements of a row; 0: D */
  double base;   /* > 1; 0: 10000 */
  double factor; /* >= 1. A scaling refuses the fields that it does not name above; without scaling all are refused */
  double low_freq_factor, high_freq_factor; /* LLAMA3; 0: 1 and 4 */
  double beta_fast, beta_slow;              /* YARN; 0: 32 and 1 */
  double attention_factor;                  /* YARN: multiplies sine and cosine; 0: 0.1 ln(factor) + 1 */
  int64_t original_positions;               /* LLAMA3, YARN: the length that the model was trained on, >= 1 */
  const float* cos; /* [table_positions, dims/2]: the caller's own table instead of base and scaling (both 0 then), */
  const float* sin; /* and the sines, of the same shape. mha_rope_table fills one. NULL, both: angles as above */
  int64_t table_positions; /* >= 1 with a table: every position must be less */
  uint64_t reserved[8];
} mha_rope;

/* The caller's own pages of keys and values (a block table): page table[b * stride + n] has the tokens
 * [n * page_size, (n + 1) * page_size) of item b. The views key and value are then [num_pages, page_size, Hkv, D or
 * Dv]: stride_b steps pages, stride_t tokens of a page, stride_h heads. Pages need key_lengths; key_len is an upper
 * bound of the lengths and gives the layout of weights and masks. Table entries beyond a length are not read.
 * mha_rows_prepare writes such pages. */
typedef struct mha_pages {
  const int32_t* table;
  int64_t stride;    /* entries from item to item; 0: ceil(key_len / page_size) */
  int64_t page_size; /* tokens, >= 1; multiples of 16 are fastest */
  int64_t num_pages; /* a table entry outside [0, num_pages) is MHA_ERR_ARGUMENT */
  uint64_t reserved[2];
} mha_pages;

typedef enum mha_weights_mode {
  MHA_WEIGHTS_NONE = 0,
  MHA_WEIGHTS_PER_HEAD = 1, /* weights [B, H, Tq, Tk] */
  MHA_WEIGHTS_AVERAGED = 2, /* weights [B, Tq, Tk]: the mean over heads */
  MHA_WEIGHTS_KEY_SUMS = 3  /* weights [B, H, Tk]: attention weight of each key, summed over queries, ascending */
} mha_weights_mode;

/* Results in addition to the output. A result must not overlap an input or another result. */
typedef struct mha_results {
  float* log_sum_exp; /* [B, H, Tq] dense (packed queries: item b's is [H, Tq_b], from H * query_offsets[b] on): natural
                         logarithm of the sum of exp(score) over visible keys; NULL: not computed */
  mha_weights_mode weights_mode;
  int reserved_int;
  mha_mut_view weights; /* the attention weights. MHA_F32 (later versions, PER_HEAD: MHA_F16, MHA_BF16); refused without
                           a mode. The modes above give the dense order; stride_t steps queries, keys are dense. Items
                           of unequal length: Tk is the longest Tk_b (with key_lengths: key_len), with zeros beyond
                           Tk_b; packed queries: [H, query_len, Tk], AVERAGED without H, KEY_SUMS [B, H, Tk] */
  const int64_t* weights_rows; /* [num_weights_rows], ascending, distinct, < Tq of each item: the queries whose weights
                                  are returned or summed, the same for every item; weights are then [B, H,
                                  num_weights_rows, Tk] or [B, num_weights_rows, Tk]. NULL: all */
  int64_t num_weights_rows;    /* refused without weights_rows */
  uint64_t reserved[8];
} mha_results;

/* ---------------------------------------------------------------------------------------------------------------------
 * Attention
 */

typedef struct mha_cache mha_cache;

typedef struct mha_attention_args {
  int64_t batch;          /* B; 0 succeeds and writes nothing */
  int64_t num_heads;      /* H, >= 1 */
  int64_t num_kv_heads;   /* Hkv, 0: H; H % Hkv == 0; query head h uses key/value head h / (H / Hkv). Set it for grouped
                             heads: with 0, key and value are read as tensors of H heads */
  int64_t query_len;      /* Tq; the sum of all Tq_b for packed queries; 0 succeeds and writes nothing */
  int64_t key_len;        /* Tk; the sum of all Tk_b for packed keys; 0 gives zeros. With a cache 0: its sequences have
                             lengths of their own */
  int64_t head_dim;       /* D, >= 1 */
  int64_t value_head_dim; /* Dv, 0: D */
  mha_view query;         /* [B, Tq, H, D] */
  mha_view key;           /* [B, Tk, Hkv, D] */
  mha_view value;         /* [B, Tk, Hkv, Dv] */
  mha_mut_view output;    /* [B, Tq, H, Dv]; may have query's own data, with the same dtype and strides */
  int causal;             /* not 0: query i sees keys j <= p(i) */
  int scale_is_exact;     /* not 0: scale is used as given, also if it is 0 or negative */
  float scale;            /* 0: 1 / sqrt(D). Finite, no denormal; > 0 unless scale_is_exact */
  mha_arithmetic arithmetic;

  const mha_items* items;
  const mha_positions* positions;
  const mha_masks* masks;
  const mha_score_mods* score_mods;
  const mha_norm* query_norm; /* of queries; keys must be normed and rotated (mha_cache_append, mha_rows_prepare) */
  const mha_rope* rope;       /* of queries, after the norm */
  const mha_cache* cache;     /* keys and values of item b are those of sequences[b], instead of key, value, key_len,
                                   key_offsets, key_lengths. A ring that has dropped tokens must still have all keys
                                   that window_left and sink_tokens of the masks show (otherwise MHA_ERR_ARGUMENT).
                                   Where neighbouring items share pages (mha_cache_fork), shared chunks are read once */
  const mha_pages* pages;     /* keys and values in the caller's own pages; not with a cache */
  const mha_results* results;
  const mha_resources* resources;
  uint64_t reserved[6];
} mha_attention_args;

/* Computes scaled dot-product attention for a batch of heads, without a Tq x Tk matrix in memory.
 *   output[b,i,h,:] = sum_j softmax_j(scale * <query[b,i,h,:], key[b,j,g,:]> + masks) * value[b,j,g,:]
 *   with g = h / (H / Hkv), over the visible keys j (mha_masks). mha_score_mods changes what goes into the softmax.
 * Shapes:   as in the structs.
 * Overlap:  output may have query's own data, with the same dtype and strides. Any other overlap of a result with an
 *           input tensor or a result is MHA_ERR_STRIDE where it is certain: the two begin at the same address, or one
 *           of them has no gaps and contains the first or last element of the other. Other overlaps are not noticed,
 *           and results are undefined; so are results that overlap a mask, a bias or the workspace.
 * Numerics: (BF16, INT8: mha_arithmetic.) f32 with f32 accumulation: one chain of fused multiply-adds for each score (over d
 *           ascending) and for each chunk of 256 keys; chunks are merged in ascending order by their log-sum-exp
 *           (online softmax: arXiv 1805.02867). exp2 is a polynomial of degree 5; attention weights below 2^-126 of the
 *           row's greatest are 0.
 *           A NaN in a visible query, key or value reaches exactly the rows that see it; a score of +inf makes its row
 *           NaN. Finite numbers may have any size. A score with its biases and masks may reach 4 FLT_MAX in either
 *           direction; beyond that it is +inf or -inf (no weight). log_sum_exp stops at +-FLT_MAX. scale * q counts as
 *           zero below 5.6 FLT_MIN and overflows above 5.5 FLT_MAX, and so do partial sums of scale * <q, k> (over d
 *           ascending). The division by the sum comes last: values beyond FLT_MAX / Tk may overflow before it.
 *           Denormals count as zero and rounding is to nearest, in any floating-point mode of the caller; the caller's
 *           mode is restored. Measured error: tests/README.md.
 * Threads:  at most the context's, and max_threads. The same bits for any number.
 * Returns:  MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_SHAPE; MHA_ERR_STRIDE; MHA_ERR_OVERFLOW; MHA_ERR_BUFFER;
 *           MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED (a dtype; an arithmetic, of this version or of the target; a width
 *           that hadamard does not have, rope.dims > 1024; codes, where the library was built with -DMHA_CODES=OFF). */
MHA_API mha_status mha_attention(const mha_context* context, const mha_attention_args* args, mha_error* error);

/* Size queries, of this and all other calls: the bytes that the call with the same arguments needs, 0 if it needs none.
 * The data of tensors, masks and results is not read, and those pointers may be NULL (give a non-NULL pointer where the
 * call will have one, and query's data as output's where the call will do so). Offsets, lengths, sequences,
 * weights_rows, the cache and the table of pages are read (items that begin with the same pages share them), and the
 * bytes depend on them: ask again when they change, or ask for the bound.
 * Returns: as the call; MHA_ERR_NULL also for bytes NULL. */
MHA_API mha_status mha_attention_workspace_bytes(const mha_context* context, const mha_attention_args* args,
                                                 size_t* bytes, mha_error* error);
/* Bytes that are enough for every call with at most this batch, query_len and key_len, with any offsets, lengths and
 * sequences, and with any subset of the groups given here (so give each group that a later call may have; what `items`
 * points to is not read). With a cache: for any length that its sequences can reach. The max_threads of the calls must
 * not be greater than here.
 * Returns: as the call; MHA_ERR_NULL also for bytes NULL; MHA_ERR_UNSUPPORTED for attention weights over a ring, which
 *          grow with its sequences. */
MHA_API mha_status mha_attention_workspace_bound(const mha_context* context, const mha_attention_args* args,
                                                 size_t* bytes, mha_error* error);

/* Writes how mha_attention would run with these arguments, and why (target, threads by the cost model, kernel, tiles,
 * items, split, workspace): lines of "key: value", zero-terminated, cut at `capacity` (0: text may be NULL). *needed
 * (may be NULL) gets the full length with the zero. Pointers are as in the size query.
 * Returns: as mha_attention_workspace_bytes; MHA_ERR_NULL also for text NULL with a capacity. */
MHA_API mha_status mha_attention_explain(const mha_context* context, const mha_attention_args* args, char* text,
                                         size_t capacity, size_t* needed, mha_error* error);

/* Attention over a part of the keys, to be merged with parts that others computed (a context split over processes). It
 * gives one partial result for each chunk of 256 keys. Merging them in ascending order gives the bits of one call over
 * all keys, if parts hold whole chunks (every part except the last has a multiple of 256 keys). Masks and p(i) count
 * from the part's first key. So where anything depends on positions, use MHA_ALIGN_OFFSET with the offset of the whole
 * context (Tk of the whole - Tq) minus the number of keys before this part (1000 keys in parts of 512 and 488, Tq = 10:
 * 990 and 478), and give rope its positions. MHA_ALIGN_DEFAULT is refused there. output, results and sink_logits are
 * always refused.
 * Shapes:   partials [chunks of the part, 1 for Tk = 0][B * H * Tq * (Dv + 2)] floats at 4-byte addresses, the same on
 *           every FMA target but for the signs of zeros. They must not overlap query, key or value. To merge parts, store
 *           their partials one after the other. What the numbers mean is not promised, their order is: for each chunk,
 *           Dv numbers for each row of [B, H, Tq], then 2 numbers for each. So some rows can be taken out and merged
 *           apart, as the partials of B = H = 1 and as many queries.
 * Requires: B items of the same length (of a batch of packed items, or of sequences of a cache, take one at a time).
 *           Workspace as for mha_attention without results. Partial results of rotated values (mha_storage.hadamard) are
 *           rotated: all parts alike, and mha_merge_partials_args.hadamard set.
 * Returns:  as mha_attention; MHA_ERR_UNSUPPORTED for items of unequal length; MHA_ERR_BUFFER also where bytes is less
 *           than mha_attention_partial_bytes says. */
MHA_API mha_status mha_attention_partial(const mha_context* context, const mha_attention_args* args, void* partials,
                                         size_t bytes, mha_error* error);
MHA_API mha_status mha_attention_partial_bytes(const mha_context* context, const mha_attention_args* args,
                                               size_t* bytes, mha_error* error);

typedef struct mha_merge_partials_args {
  int64_t batch, num_heads, query_len, value_head_dim; /* B, H, Tq: 0 writes nothing; Dv >= 1 */
  int64_t num_chunks;        /* the sum of max(1, ceil(Tk / 256)) over the parts, not the number of parts; 0: zeros, and
                                log-sum-exp -inf or the sink */
  const void* partials;      /* [num_chunks][B * H * Tq * (Dv + 2)] */
  const float* sink_logits;  /* [H]; NULL: none */
  mha_mut_view output;       /* [B, Tq, H, Dv] */
  float* log_sum_exp;        /* [B, H, Tq]; NULL: not computed */
  mha_arithmetic arithmetic; /* of the calls that computed the parts */
  int hadamard;              /* not 0: the values were codes of rotated rows (mha_storage), and so partial results are
                                rotated: the output is rotated back */
  const mha_resources* resources; /* the workspace is not needed */
  uint64_t reserved[4];
} mha_merge_partials_args;

/* Merges partial results of mha_attention_partial in the given order. Threads: at most the context's; the same bits for
 * any number. Never allocates. Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_STRIDE; MHA_ERR_OVERFLOW;
 * MHA_ERR_UNSUPPORTED. */
MHA_API mha_status mha_attention_merge_partials(const mha_context* context, const mha_merge_partials_args* args,
                                                mha_error* error);

typedef struct mha_merge_args {
  int64_t num_parts, rows,
      value_head_dim;               /* num_parts 0: zeros and -inf; rows 0 writes nothing; Dv >= 1. All arrays have the
                                              same order of rows: for an output [B, Tq, H, Dv] of mha_attention,
                                              transpose its log_sum_exp from [B, H, Tq] to [B, Tq, H] (not needed if Tq
                                              is 1) */
  const float* const* outputs;      /* [num_parts] of [rows, Dv], dense */
  const float* const* log_sum_exps; /* [num_parts] of [rows] */
  float* output;                    /* [rows, Dv]; may be outputs[0] */
  float* log_sum_exp;               /* [rows]; may be log_sum_exps[0]; NULL: not computed */
  const mha_resources* resources;   /* the workspace is not needed */
  uint64_t reserved[4];
} mha_merge_args;

/* Merges finished results over disjoint sets of keys by their log-sum-exp (cascade, ring attention), in the given
 * order. A row that saw no key in any part (-inf) gives zeros and -inf. Give a sink to one part only.
 *   lse = ln sum_n exp(lse_n);  output = sum_n exp(lse_n - lse) output_n
 * Numerics: in double, rounded once; the same bits on every target. The parts need not be whole chunks, so the result
 *           does not have the bits of one call.
 * Threads:  at most the context's. Never allocates.
 * Returns:  MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_OVERFLOW. */
MHA_API mha_status mha_attention_merge(const mha_context* context, const mha_merge_args* args, mha_error* error);

/* Expands T5's bucketed biases (arXiv 1910.10683) to distances: table [num_buckets, H] as in T5's checkpoints, result
 * [H, 2 * max_distance + 1] for relative_left = relative_right = max_distance. bidirectional: not 0 for encoders; 0 for
 * decoders, where keys after the query have the bucket of distance 0.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (num_heads < 1; num_buckets < 2, or odd and bidirectional;
 *          max_distance too small for num_buckets); MHA_ERR_OVERFLOW. */
MHA_API mha_status mha_t5_bias(const float* table, int64_t num_heads, int64_t num_buckets, int64_t max_distance,
                               int bidirectional, float* result, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Rows: norm, rotate, convert; also into the caller's own pages
 */

typedef struct mha_rows_args {
  int64_t batch, length, num_heads, head_dim; /* B, T, H or Hkv: 0 writes nothing; D >= 1 */
  mha_view input;                             /* [B, T, heads, D] */
  mha_mut_view output;                        /* the same shape; may have input's own data, with the same dtype and
                                                 strides. With slots: [num_pages, page_size, heads, D], stride_b steps
                                                 pages */
  const mha_storage* storage;                 /* how output is rounded to codes; NULL: output.dtype has no codes */
  void* scales;                               /* of codes, written: [B, T, heads, groups of a row] dense; with slots
                                                 [num_pages, page_size, heads, groups]. NULL where they are fixed */
  void* zeros;                                /* as scales, where storage has zero_points; else NULL */
  mha_storage_error* storage_error;           /* the error of rounding, written; NULL: not computed */
  const int64_t* slots;     /* [B, T] dense: a token with slot s is stored in page s / page_size at place s % page_size;
                               with s < 0 it is not stored. Slots >= 0 must be distinct (not checked: of two tokens with
                               one slot, either is stored, or of codes a mixture). NULL: tokens are stored in order.
                               vLLM's slot_mapping */
  int64_t page_size;        /* with slots, >= 1 */
  int64_t num_pages;        /* with slots: a slot >= num_pages * page_size is MHA_ERR_ARGUMENT */
  const int64_t* positions; /* for rope: [B, T] dense, each in [0, 2^31); NULL: first_position + t */
  int64_t first_position;   /* refused with positions, and without rope */
  const mha_norm* norm;     /* applied first; NULL: none */
  const mha_rope* rope;     /* applied after the norm; NULL: none */
  const mha_resources* resources;
  uint64_t reserved[4];
} mha_rows_args;

/* Norms, rotates and stores rows: keys and values that the caller keeps in its own tensors or pages (with slots, this
 * is vLLM's reshape_and_cache).
 * Numerics: a row's bits depend only on the row and its position. Rows are normed and rotated in f32, then rounded
 *           once. Denormals count as zero where rows are normed or rotated; otherwise rows are copied bit by bit, or
 *           converted as mha_dtype says.
 *           Codes are rounded as mha_storage says. With the scales as mha_quant (group as in storage, stride_d 1 if
 *           it is not 0, stride_h = groups, stride_t = heads * groups, ...) the output is a tensor, or pages, that
 *           mha_attention reads.
 * Threads:  at most the context's. Needs a workspace only for storage_error, and for codes of rows that are normed or
 *           rotated, by rope or hadamard.
 * Returns:  MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (dims odd or > D, a position < 0, > 2^31 - 1 or beyond the table,
 *           ...); MHA_ERR_SHAPE (a table with base or scaling, half a table); MHA_ERR_STRIDE; MHA_ERR_OVERFLOW;
 *           MHA_ERR_BUFFER; MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED (codes as input; output MHA_Q8_0,
 *           MHA_Q4_0; a group or zero_dtype that mha_storage does not have, a width that hadamard does not have; dims >
 *           1024). */
MHA_API mha_status mha_rows_prepare(const mha_context* context, const mha_rows_args* args, mha_error* error);
/* As mha_attention_workspace_bytes. The bytes are also enough for fewer tokens. */
MHA_API mha_status mha_rows_workspace_bytes(const mha_context* context, const mha_rows_args* args, size_t* bytes,
                                            mha_error* error);

/* Writes the table of positions [first, first + count) that calls compute from base and scaling: cos and sin
 * [count, dims/2], for mha_rope.cos and .sin. The table includes the attention_factor of MHA_ROPE_SCALING_YARN.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_SHAPE (a rope that has a table); MHA_ERR_OVERFLOW;
 *          MHA_ERR_UNSUPPORTED (dims > 1024). */
MHA_API mha_status mha_rope_table(const mha_context* context, const mha_rope* rope, int64_t head_dim, int64_t first,
                                  int64_t count, float* cos, float* sin, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Cache: keys and values kept between calls, for one or more sequences, numbered from 0
 */

typedef enum mha_cache_kind {
  MHA_CACHE_CONTIGUOUS = 0, /* each sequence has room for `capacity` tokens */
  MHA_CACHE_RING = 1,       /* each sequence keeps at least its first sink_tokens and its last `capacity` tokens, for
                               sliding windows: capacity >= window_left - 1 + the most tokens that one call appends */
  MHA_CACHE_PAGED = 2       /* `capacity` tokens in pages. A sequence takes pages as it grows; forks share pages */
} mha_cache_kind;

typedef struct mha_cache_config {
  mha_cache_kind kind;
  int value_in_key;       /* not 0: values are the first Dv elements of keys, stored once (MLA); MHA_ERR_UNSUPPORTED in
                             this version */
  int64_t num_kv_heads;   /* Hkv, >= 1 */
  int64_t head_dim;       /* D, >= 1 */
  int64_t value_head_dim; /* Dv, 0: D */
  int64_t max_sequences;  /* 0: 1 */
  int64_t capacity;       /* tokens, >= 1: see mha_cache_kind; paged: of all sequences together, rounded up to pages */
  int64_t page_size; /* paged: tokens in a page, any size >= 1 (multiples of 16 are fastest); 0: 64. Others: refused */
  int64_t sink_tokens; /* ring: first tokens kept with the last `capacity`, see mha_masks.sink_tokens; 0: none. Others:
                          refused */
  mha_storage key, value; /* how keys and values are stored; a page holds their scales and zeros, too */
  void* memory;        /* memory for the tokens, any alignment, to be kept until mha_cache_destroy; NULL: allocated */
  size_t memory_bytes; /* of `memory`: at least mha_cache_memory_bytes. Refused without memory */
  uint64_t reserved[8];
} mha_cache_config;

/* Bytes that a cache of this configuration needs for its tokens (config.memory), known before it is made. memory and
 * memory_bytes are ignored. Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_OVERFLOW;
 * MHA_ERR_UNSUPPORTED. */
MHA_API mha_status mha_cache_memory_bytes(const mha_cache_config* config, size_t* bytes, mha_error* error);
/* Makes an empty cache, which may be used with any context, target and thread count.
 * Threads: one writer for each sequence. Calls that change different sequences may run at the same time, even if these
 *          share pages; so may calls that read sequences which no other call changes. mha_cache_append, _reserve,
 *          _truncate, _remove, _load, and mha_layer_forward with a cache that it appends to, change the sequences they
 *          name; mha_cache_fork changes the destination. All others only read, size queries and explain among them. No
 *          other call may run during mha_cache_reset and _destroy.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_OVERFLOW; MHA_ERR_BUFFER (memory_bytes too small);
 *          MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED. On failure *cache is NULL. */
MHA_API mha_status mha_cache_create(const mha_context* context, const mha_cache_config* config, mha_cache** cache,
                                    mha_error* error);
MHA_API void mha_cache_destroy(mha_cache* cache); /* NULL is allowed; config.memory is no longer used */
/* The configuration with every default filled in; NULL cache: does nothing. key.fixed and value.fixed, where given, are
 * the cache's copies, valid until mha_cache_destroy. */
MHA_API void mha_cache_get_config(const mha_cache* cache, mha_cache_config* config);

typedef struct mha_append_args {
  int64_t batch;            /* B: sequences that grow, distinct; 0 does nothing */
  int64_t length;           /* T: new tokens of each sequence; with offsets, of all together */
  mha_view key;             /* [B, T, Hkv, D], or [T, Hkv, D] packed */
  mha_view value;           /* [B, T, Hkv, Dv], or [T, Hkv, Dv] packed */
  const int64_t* sequences; /* [B], in any order; NULL: 0 .. B-1 */
  const int64_t* offsets;   /* [B+1] ascending from 0 to length: item b has tokens [offsets[b], offsets[b+1]) of key
                               and value, packed (stride_b unused); NULL: T each */
  const int64_t* positions; /* for rope: [B, T] dense, or [T] packed; NULL: the token's number in its sequence */
  const mha_norm* key_norm; /* norms keys before they are stored; NULL: none */
  const mha_rope* rope;     /* rotates keys after the norm; NULL: none */
  const mha_resources* resources;
  uint64_t reserved[4];
} mha_append_args;

/* Appends tokens to sequences, all or nothing: on failure the cache is as it was. A ring drops tokens that are older
 * than its capacity, page by page. Values, and keys without norm and rope, are stored bit by bit, converted as
 * mha_dtype says, or rounded to codes as mha_storage says.
 * Threads: at most the context's. Needs a workspace only where rows are normed or rotated, by rope or hadamard, and stored
 *          as codes; never allocates otherwise.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (a sequence out of range or twice, ...); MHA_ERR_SHAPE;
 *          MHA_ERR_STRIDE; MHA_ERR_OVERFLOW; MHA_ERR_BUFFER; MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED (codes as key
 *          or value; dims > 1024); MHA_ERR_FULL. */
MHA_API mha_status mha_cache_append(const mha_context* context, mha_cache* cache, const mha_append_args* args,
                                    mha_error* error);
/* As mha_attention_workspace_bytes, but sequences, offsets and positions are not read. The bytes are also enough for
 * fewer tokens. */
MHA_API mha_status mha_cache_append_workspace_bytes(const mha_context* context, const mha_cache* cache,
                                                    const mha_append_args* args, size_t* bytes, mha_error* error);

typedef struct mha_reserve_args {
  mha_cache* const* caches; /* [num_caches], distinct: the layers of a model */
  int64_t num_caches;
  int64_t batch;            /* B */
  const int64_t* sequences; /* [B], distinct; NULL: 0 .. B-1 */
  const int64_t* tokens;    /* [B], each >= 0 */
  uint64_t reserved[4];
} mha_reserve_args;

/* Reserves room for tokens[b] more tokens of sequences[b] in every cache of the list, or in none (MHA_ERR_FULL). After
 * that, appending this many tokens cannot fail with MHA_ERR_FULL. Appending uses the reservation up; it counts in
 * mha_cache_used_bytes (paged); mha_cache_truncate, _remove and _reset give it back. Reserving again raises a
 * reservation to at least this many tokens and never lowers it. mha_cache_fork ends the reservations of its source and
 * destination: reserve again after it.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_OVERFLOW; MHA_ERR_FULL. */
MHA_API mha_status mha_cache_reserve(const mha_reserve_args* args, mha_error* error);
/* Removes the tokens from `length` on (rollback), as if they had never been appended, and gives back their pages and
 * the reservation. Tokens that a ring has dropped do not come back. Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT
 * (length beyond the sequence's length, or among the tokens that a ring has dropped, between sink_tokens and
 * mha_cache_first_kept). */
MHA_API mha_status mha_cache_truncate(mha_cache* cache, int64_t sequence, int64_t length, mha_error* error);
/* Makes the empty sequence `destination` equal to the first `length` tokens of `source` (-1: all). Paged: both
 * sequences share the pages and the call takes none; a shared page is copied when one of its sequences first writes to
 * it (so the room of both drops by that page). Other kinds: the tokens are copied.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (destination not empty; a length that mha_cache_truncate would
 * refuse). */
MHA_API mha_status mha_cache_fork(mha_cache* cache, int64_t source, int64_t destination, int64_t length,
                                  mha_error* error);
/* Empties a sequence and gives its pages back. Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (no such sequence). */
MHA_API mha_status mha_cache_remove(mha_cache* cache, int64_t sequence, mha_error* error);
/* Empties all sequences; NULL is allowed. */
MHA_API void mha_cache_reset(mha_cache* cache);
/* Number of tokens appended so far, including dropped ones. -1: no such sequence. */
MHA_API int64_t mha_cache_length(const mha_cache* cache, int64_t sequence);
/* The first token that is still kept, except a ring's sink tokens: 0 unless tokens were dropped. -1: no such
 * sequence. */
MHA_API int64_t mha_cache_first_kept(const mha_cache* cache, int64_t sequence);
/* How many more tokens the sequence can take if no other sequence grows, including its reservation; a ring: 2^62 minus
 * its length. -1: no such sequence. */
MHA_API int64_t mha_cache_room(const mha_cache* cache, int64_t sequence);
/* Bytes of the pages that sequences hold; a shared page counts once. 0 for NULL. */
MHA_API size_t mha_cache_used_bytes(const mha_cache* cache);

typedef struct mha_export_args {
  int64_t sequence, begin, count; /* tokens [begin, begin + count) */
  mha_mut_view key;   /* [count, Hkv, D]; stride_b 0. MHA_F32, MHA_F16 or MHA_BF16, converted as mha_dtype says; or the
                         codes that the cache keeps, of its type */
  mha_mut_view value; /* [count, Hkv, Dv] */
  void *key_scales, *key_zeros; /* of codes that are exported as codes: [count, Hkv, groups of a row] dense; otherwise,
                                   and where the cache has none of its own, NULL */
  void *value_scales, *value_zeros;
  uint64_t reserved[4];
} mha_export_args;

/* Copies tokens of a sequence out of the cache, as they are stored (after rope). Codes are given as values, those of
 * rotated rows rotated back; or as codes, which stay rotated. To import them,
 * append them without norm and rope (codes, bit by bit: mha_cache_save and _load). Never allocates.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (tokens beyond the length or no longer kept); MHA_ERR_STRIDE;
 *          MHA_ERR_OVERFLOW; MHA_ERR_UNSUPPORTED. */
MHA_API mha_status mha_cache_export(const mha_cache* cache, const mha_export_args* args, mha_error* error);

/* Saves one sequence as a block of bytes, with a checksum of all bytes. A cache with the same heads, widths and
 * storage, of any kind that has room, can load it. Tokens that a ring has dropped are not saved. load copies into an
 * empty sequence, or changes nothing; it ignores bytes after the block.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT (blob not aligned to 4 bytes, no such sequence, one that is not
 *          empty); MHA_ERR_BUFFER (save: bytes too small); MHA_ERR_BLOB (damaged, truncated, another version or other
 *          sizes); MHA_ERR_FULL; MHA_ERR_UNSUPPORTED (tokens were dropped, so only a ring that keeps as few sink_tokens
 *          can load it). */
MHA_API mha_status mha_cache_save_bytes(const mha_cache* cache, int64_t sequence, size_t* bytes, mha_error* error);
MHA_API mha_status mha_cache_save(const mha_cache* cache, int64_t sequence, void* blob, size_t bytes, mha_error* error);
MHA_API mha_status mha_cache_load(mha_cache* cache, int64_t sequence, const void* blob, size_t bytes, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Linear: the packed GEMM on its own
 */

/* The layout of the given weights. All layouts are packed into one form, the same on every target: by default as they are
 * given, codes with their scales and zeros. Weights that are codes stand for value = scale * (code - zero), as mha_quant
 * says (rows are its tokens; scales of groups of inputs, a multiple of 16, or of all inputs, else MHA_ERR_UNSUPPORTED),
 * and a call over them has the bits of the call over these floats. */
typedef enum mha_weight_layout {
  MHA_WEIGHT_ROWS = 0, /* [out, in] in rows, of any type: torch's nn.Linear, MatMulNBits (MHA_U4, zeros MHA_U4), Q8_0,
                          Q4_0 */
  MHA_WEIGHT_GPTQ = 1, /* GPTQ v1: qweight int32 [in/8, out], qzeros int32 [groups, out/8] that store zero - 1 (a stored
                          15 is a zero of 16), scales [groups, out]: a view with dtype MHA_U4 and a quant with scales,
                          scale_dtype, group, and zeros with zero_dtype MHA_U4, or neither (all zeros are 8); all
                          strides 0; in and out are multiples of 8 */
  MHA_WEIGHT_GPTQ_V2 = 2, /* the same, but qzeros store the zero itself */
  MHA_WEIGHT_AWQ = 3      /* qweight int32 [in, out/8] in AWQ's order of outputs; qzeros [groups, out/8] in that order,
                             too; else as GPTQ, but in is any number */
} mha_weight_layout;

typedef struct mha_linear_config {
  int64_t in_features, out_features; /* >= 1 */
  mha_view weight;   /* [out, in], stride_t steps rows, dense by default; groups of quant run along in; or as layout
                        says */
  const float* bias; /* [out]; NULL: none */
  mha_arithmetic arithmetic;
  mha_weight_layout layout;
  const mha_storage* packed;       /* how the packed weights are stored: rounded to floats of 16 bits, or to codes as
                                      mha_storage says; NULL: as they are given, in BF16 as MHA_BF16, which is the only
                                      choice there; in INT8 codes as they are given, floats as MHA_I8 */
  mha_storage_error* packed_error; /* the error of storing, written; NULL: not computed */
  uint64_t reserved[8];
} mha_linear_config;

typedef struct mha_linear mha_linear;

/* Packs weight and bias. The result is immutable and independent of the target; threads and contexts may share it. The
 * given weights are not kept. On failure *linear is NULL.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_SHAPE (rows of codes that are no whole blocks or words);
 *          MHA_ERR_STRIDE; MHA_ERR_OVERFLOW; MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED. */
MHA_API mha_status mha_linear_create(const mha_context* context, const mha_linear_config* config, mha_linear** linear,
                                     mha_error* error);
MHA_API void mha_linear_destroy(mha_linear* linear); /* NULL is allowed */
/* The configuration with every default filled in, without pointers; NULL linear: does nothing. */
MHA_API void mha_linear_get_config(const mha_linear* linear, mha_linear_config* config);

/* The packed weights as one block of bytes: save it, map it back (mmap) on any target of the same byte order, and use
 * it without packing again. map keeps pointers into `blob`, which must be aligned to 4 bytes (64 is fastest) and stay
 * unchanged until the handle is destroyed. It checks magic, format version, sizes and a checksum of the header; it does
 * not check the weights. On failure *linear is NULL.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_BUFFER (save: bytes too small); MHA_ERR_ARGUMENT (map: alignment);
 *          MHA_ERR_BLOB; MHA_ERR_OUT_OF_MEMORY. */
MHA_API mha_status mha_linear_save_bytes(const mha_linear* linear, size_t* bytes, mha_error* error);
MHA_API mha_status mha_linear_save(const mha_linear* linear, void* blob, size_t bytes, mha_error* error);
MHA_API mha_status mha_linear_map(const mha_context* context, const void* blob, size_t bytes, mha_linear** linear,
                                  mha_error* error);

typedef struct mha_linear_args {
  int64_t rows;        /* M; 0 writes nothing */
  mha_view input;      /* [M, in_features]; stride_t steps rows */
  mha_mut_view output; /* [M, out_features]; must not overlap the input */
  const mha_resources* resources;
  uint64_t reserved[4];
} mha_linear_args;

/* Computes output[m,n] = bias[n] + sum_k input[m,k] * weight[n,k].
 * Numerics: one chain of fused multiply-adds over k ascending from 0 (BF16, INT8: mha_arithmetic), then the bias is
 *           added. A row's bits depend on that row alone. Denormals count as zero and rounding is to nearest, in any
 *           floating-point mode of the caller.
 * Overlap:  as in mha_attention, but the output must not have the input's data.
 * Threads:  at most the context's. Needs a workspace only where input, weights, output or arithmetic are not F32.
 * Returns:  MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_STRIDE; MHA_ERR_OVERFLOW; MHA_ERR_BUFFER;
 *           MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED. */
MHA_API mha_status mha_linear_forward(const mha_context* context, const mha_linear* linear, const mha_linear_args* args,
                                      mha_error* error);
/* As mha_attention_workspace_bytes and mha_attention_explain, for mha_linear_forward. The bytes are also enough for
 * fewer rows. */
MHA_API mha_status mha_linear_workspace_bytes(const mha_context* context, const mha_linear* linear,
                                              const mha_linear_args* args, size_t* bytes, mha_error* error);
MHA_API mha_status mha_linear_explain(const mha_context* context, const mha_linear* linear, const mha_linear_args* args,
                                      char* text, size_t capacity, size_t* needed, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Layer: projections, attention, output projection (torch's nn.MultiheadAttention, with GQA)
 */

typedef struct mha_layer mha_layer;

typedef struct mha_layer_config {
  int64_t embed_dim;      /* E, >= 1: width of query */
  int64_t num_heads;      /* H, >= 1 */
  int64_t num_kv_heads;   /* Hkv, 0: H */
  int64_t head_dim;       /* D, 0: E / H (then E % H == 0) */
  int64_t value_head_dim; /* Dv, 0: D */
  int64_t kdim;           /* width of key, 0: E */
  int64_t vdim;           /* width of value, 0: E */
  int64_t out_dim;        /* width of output, 0: E */
  int scale_is_exact;     /* as in mha_attention_args, for scale */
  float scale;            /* 0: 1 / sqrt(D) */
  int add_zero_attn;      /* as in nn.MultiheadAttention: one more key of zeros with a value of zeros, after bias_key,
                             that every query sees; 0: none. With a cache, packed keys, softcap, ALiBi or relative_bias,
                             mha_layer_forward returns MHA_ERR_UNSUPPORTED for it, and also for bias_key */
  mha_arithmetic arithmetic; /* of the projections; each call states that of attention */
  mha_weight_layout layout;  /* of the weights */
  int reserved_int;
  const mha_storage* packed;       /* how the packed weights are stored; NULL: as they are given, in BF16 as MHA_BF16,
                                      which is the only choice there; in INT8 codes as they are given, floats as
                                      MHA_I8 */
  mha_storage_error* packed_error; /* [4], of query, key, value and output: the error of storing, written; NULL: not
                                      computed */
  uint64_t reserved[8];
} mha_layer_config;

/* Weights [out, in], stride_t steps rows, dense by default. Give either in_proj_weight (rows: H*D of query, Hkv*D of
 * key, Hkv*Dv of value; needs kdim == vdim == E) or query_weight, key_weight and value_weight. The biases likewise; any
 * bias may be NULL. */
typedef struct mha_layer_weights {
  mha_view in_proj_weight;   /* [H*D + Hkv*D + Hkv*Dv, E] */
  mha_view query_weight;     /* [H*D, E] */
  mha_view key_weight;       /* [Hkv*D, kdim] */
  mha_view value_weight;     /* [Hkv*Dv, vdim] */
  mha_view output_weight;    /* [out_dim, H*Dv] */
  const float* in_proj_bias; /* [H*D + Hkv*D + Hkv*Dv] */
  const float* query_bias;
  const float* key_bias;
  const float* value_bias;
  const float* output_bias; /* [out_dim] */
  /* bias_k and bias_v of nn.MultiheadAttention: one more key [Hkv*D] that every query sees, and its value [Hkv*Dv];
   * both or none (NULL). Returned attention weights have a column for it, and one for add_zero_attn. */
  const float* bias_key;
  const float* bias_value;
  uint64_t reserved[8];
} mha_layer_weights;

/* Packs the weights. The layer is immutable; threads and contexts may share it. The given weights are not kept.
 * Returns: MHA_OK; MHA_ERR_NULL; MHA_ERR_ARGUMENT; MHA_ERR_SHAPE; MHA_ERR_STRIDE; MHA_ERR_OVERFLOW;
 *          MHA_ERR_OUT_OF_MEMORY; MHA_ERR_UNSUPPORTED. On failure *layer is NULL. */
MHA_API mha_status mha_layer_create(const mha_context* context, const mha_layer_config* config,
                                    const mha_layer_weights* weights, mha_layer** layer, mha_error* error);
MHA_API void mha_layer_destroy(mha_layer* layer); /* NULL is allowed */
/* The configuration with every default filled in, without pointers; NULL layer: does nothing. */
MHA_API void mha_layer_get_config(const mha_layer* layer, mha_layer_config* config);
/* How many keys the layer adds to those of an item, 0 to 2 (bias_key, add_zero_attn), each with a column of returned
 * attention weights. 0 for NULL. */
MHA_API int64_t mha_layer_added_keys(const mha_layer* layer);

/* As mha_linear_save_bytes, mha_linear_save and mha_linear_map, for a layer. */
MHA_API mha_status mha_layer_save_bytes(const mha_layer* layer, size_t* bytes, mha_error* error);
MHA_API mha_status mha_layer_save(const mha_layer* layer, void* blob, size_t bytes, mha_error* error);
MHA_API mha_status mha_layer_map(const mha_context* context, const void* blob, size_t bytes, mha_layer** layer,
                                 mha_error* error);

typedef enum mha_cache_use {
  MHA_CACHE_APPEND = 0, /* self-attention: the new tokens (query) are projected, normed, rotated and appended to
                           sequences[b]; then they see all tokens of it */
  MHA_CACHE_READ = 1    /* queries see the tokens of sequences[b]; no keys and values are projected or appended
                           (cross-attention whose keys were projected and appended once) */
} mha_cache_use;

/* Views here have no heads: stride_h must be 0, dense order is [B, T, width]. */
typedef struct mha_layer_args {
  int64_t batch;             /* B; 0 succeeds and writes nothing */
  int64_t query_len;         /* Tq; 0 succeeds and writes nothing */
  int64_t key_len;           /* Tk; self-attention: 0 or Tq; with a cache: 0 */
  mha_view query;            /* [B, Tq, E] */
  mha_view key;              /* [B, Tk, kdim]; data NULL: query (self-attention) */
  mha_view value;            /* [B, Tk, vdim]; data NULL: key */
  mha_mut_view output;       /* [B, Tq, out_dim]; may have query's own data, with the same dtype and strides */
  int causal;                /* not 0: query i sees keys j <= p(i) */
  mha_arithmetic arithmetic; /* of attention */

  const mha_items* items; /* self-attention: query_offsets are also those of the keys */
  const mha_positions* positions;
  const mha_masks* masks;
  const mha_score_mods* score_mods;
  const mha_norm* query_norm;
  const mha_norm* key_norm;
  const mha_rope* rope;    /* of queries and keys */
  mha_cache* cache;        /* instead of key, value and key_len; must have the layer's Hkv, D and Dv. If the call fails,
                              the cache is as it was. NULL: none */
  mha_cache_use cache_use; /* refused without a cache */
  int reserved_int;
  const mha_results* results;
  const mha_resources* resources;
  uint64_t reserved[6];
} mha_layer_args;

/* Computes multi-head attention with projections.
 *   q = query Wq^T + bq,  k = key Wk^T + bk,  v = value Wv^T + bv  (split into heads);
 *   output = concat_h(attention(q_h, k_g, v_g)) Wo^T + bo          (mha_attention's formula)
 * Shapes:   as in the struct; a row with no visible key gives the output bias.
 * Overlap:  as in mha_attention.
 * Numerics: as mha_attention and mha_linear_forward.
 * Threads:  at most the context's; one parallel region in a call. The same bits for any number.
 * Returns:  as mha_attention; MHA_ERR_UNSUPPORTED also for added keys (mha_layer_config.add_zero_attn); MHA_ERR_FULL
 *           if the cache has no room. */
MHA_API mha_status mha_layer_forward(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                                     mha_error* error);
/* As those of mha_attention, for mha_layer_forward. They do not check whether a cache has room (mha_cache_reserve
 * does). */
MHA_API mha_status mha_layer_workspace_bytes(const mha_context* context, const mha_layer* layer,
                                             const mha_layer_args* args, size_t* bytes, mha_error* error);
MHA_API mha_status mha_layer_workspace_bound(const mha_context* context, const mha_layer* layer,
                                             const mha_layer_args* args, size_t* bytes, mha_error* error);
MHA_API mha_status mha_layer_explain(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                                     char* text, size_t capacity, size_t* needed, mha_error* error);

#ifdef __cplusplus
}
#endif

#endif /* MHA_MHA_H */
