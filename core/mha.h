/* SPDX-License-Identifier: Apache-2.0
 * mha: multi-head attention for CPUs. This is the whole public interface, in C11 (and clean as C++).
 *
 * Promises (README.md names the test of each):
 *   - no global state, no printing, no abort, no exception; where a call returns an error no result is written and a
 *     cache is as it was, all of its sequences;
 *   - one thread touches no thread runtime; no allocation inside a call that is given its workspace;
 *   - an f32 result is a pure function of the values of its inputs: the same bits for any thread count, batch, split of
 *     the queries, strides, cache (kind, page size, history), and FMA target (avx512, avx2, neon; the sse2 baseline has
 *     no fused multiply-add);
 *   - masks, positions and score changes combine freely and run in the fused kernels, without a Tq x Tk matrix; what
 *     is not there is MHA_ERR_UNSUPPORTED, never a slower way in silence (mha_*_explain);
 *   - never a read or write outside the stated extents, no alignment beyond that of float.
 *
 * Words: B batch, H query heads, Hkv key/value heads, Tq / Tk query / key length, T tokens, D head dim of query and
 * key, Dv head dim of value, E embed_dim. "packed": items of unequal length one after the other, without padding.
 * Strides count elements, not bytes. Every struct may be zeroed: zero means the default. Arguments are read during the
 * call only, but for those that a comment says are kept.
 */
#ifndef MHA_MHA_H
#define MHA_MHA_H

#include <stddef.h>
#include <stdint.h>

#define MHA_VERSION_MAJOR 0
#define MHA_VERSION_MINOR 1
#define MHA_VERSION_PATCH 0

#if defined(MHA_SHARED) && defined(_WIN32)
#if defined(MHA_BUILDING)
#define MHA_API __declspec(dllexport)
#else
#define MHA_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define MHA_API __attribute__((visibility("default")))
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
  MHA_ERR_NULL = 1,      /* a pointer that must be given is NULL */
  MHA_ERR_ARGUMENT = 2,  /* a value outside its range: a negative size, a length beyond Tk, an unknown enum value */
  MHA_ERR_SHAPE = 3,     /* sizes that do not fit each other: H % Hkv != 0, both or neither of two alternatives given */
  MHA_ERR_STRIDE = 4,    /* a stride that is not supported: negative, last dimension not dense, rows that overlap */
  MHA_ERR_OVERFLOW = 5,  /* a size, an offset or a product of sizes does not fit in 63 bits */
  MHA_ERR_WORKSPACE = 6, /* the workspace given is smaller than the call's *_workspace function says */
  MHA_ERR_OUT_OF_MEMORY = 7, /* the allocator returned NULL */
  MHA_ERR_TARGET = 8,        /* the target asked for is unknown, not built in, or not supported by this CPU */
  MHA_ERR_BLOB = 9,          /* a packed blob is damaged, truncated, or of another format version */
  MHA_ERR_UNSUPPORTED = 10,  /* a combination this version does not have; nothing falls back silently */
  MHA_ERR_FULL = 11,         /* a cache has no room for what is to be stored */
  MHA_ERR_THREAD = 12        /* a thread that cannot be made, or a thread runtime that is not built in */
} mha_status;

/* What went wrong, for a person: names the argument and its value. Every call that can fail takes an optional pointer
 * to one as its last parameter and fills it on failure only; the caller owns it. */
typedef struct mha_error {
  mha_status status;
  char message[244]; /* zero-terminated */
} mha_error;

/* The name of an mha_status ("MHA_ERR_SHAPE"), "unknown status" for any other number; static storage. */
MHA_API const char* mha_status_string(int status);

/* "0.1.0" for the library that is linked, to compare with MHA_VERSION_*; static storage. */
MHA_API const char* mha_version(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Targets: one per instruction-set bundle built into the library, best first ("avx512", "avx2", "sse2"; "neon").
 */

/* Number of targets built in. */
MHA_API int64_t mha_target_count(void);
/* Name of target `index`, NULL outside [0, mha_target_count()); static storage. */
MHA_API const char* mha_target_name(int64_t index);
/* 1 if this CPU and operating system can run target `index`, else 0. */
MHA_API int mha_target_supported(int64_t index);

/* ---------------------------------------------------------------------------------------------------------------------
 * Context: who runs the work, on which target, with which memory. Immutable, may be shared by any number of threads.
 */

typedef struct mha_context mha_context;

/* Memory for handles, packed weights, and the workspace of calls that are given none. Called from the thread that
 * calls the library. allocate returns NULL on failure; `bytes` in release is what allocate was asked for. */
typedef struct mha_allocator {
  void* user;
  void* (*allocate)(void* user, size_t bytes, size_t alignment); /* NULL: aligned_alloc / free */
  void (*release)(void* user, void* block, size_t bytes);
} mha_allocator;

/* The host's own threads. run must call task(task_data, i) once for each i in [0, count), on any threads, in any order,
 * at once or one after the other, and return when all are done; count <= num_threads. Called once a stage, up to
 * seven times a call; never by a context of one thread. */
typedef struct mha_parallel_for {
  void* user;
  void (*run)(void* user, int64_t count, void (*task)(void* task_data, int64_t index),
              void* task_data); /* NULL: as mha_threading says */
} mha_parallel_for;

/* Whose threads a call uses. Never more than there are CPUs. In a child of fork, which has none of its parent's
 * threads, calls work alone, with the same bits: OpenMP's in a thread that had called OpenMP's before the fork, the
 * pool's with a context that was made before it (make a new one there to have threads). */
typedef enum mha_threading {
  MHA_THREADING_DEFAULT = 0, /* parallel_for if given; else OpenMP, or the pool in a library built without OpenMP */
  MHA_THREADING_OPENMP = 1,  /* MHA_ERR_THREAD in a library built without OpenMP */
  MHA_THREADING_POOL = 2     /* threads of the context's own, all made with it (num_threads - 1, as far as there are
                                CPUs) and joined by mha_context_destroy. One call has them at a time: one that comes
                                while another runs works alone, with the same bits */
} mha_threading;

typedef struct mha_context_options {
  int64_t num_threads; /* 0: the CPUs that affinity and cgroup quota allow; 1: never touches a thread runtime */
  const char*
      target; /* NULL: the environment's MHA_TARGET if set, else the best supported; an unknown name is an error */
  mha_threading threading; /* beside parallel_for.run it would not be used: DEFAULT then */
  mha_parallel_for parallel_for;
  mha_allocator allocator;
} mha_context_options;

/* Makes a context. options NULL: all defaults. On failure *context is NULL and no thread is left.
 * Returns: MHA_OK; MHA_ERR_NULL, MHA_ERR_ARGUMENT (num_threads outside [0, 1024], half an allocator, an unknown
 * threading, or one beside parallel_for.run), MHA_ERR_TARGET, MHA_ERR_THREAD, MHA_ERR_OUT_OF_MEMORY. */
MHA_API mha_status mha_context_create(const mha_context_options* options, mha_context** context, mha_error* error);
/* Frees it; NULL is allowed. No call that uses it may be running; handles made with it may outlive it. */
MHA_API void mha_context_destroy(mha_context* context);
MHA_API const char* mha_context_target(const mha_context* context);  /* name of the target chosen */
MHA_API int64_t mha_context_num_threads(const mha_context* context); /* the most threads a call uses */

/* ---------------------------------------------------------------------------------------------------------------------
 * Tensors
 */

/* A strided tensor of four dimensions: element (b, t, h, d) is data[b*stride_b + t*stride_t + h*stride_h + d*stride_d].
 * stride_d == 0 says that no strides are given (the other three must be 0 too): the tensor is dense in the order stated
 * where it is used. Otherwise stride_d must be 1; the other strides may be any value >= 0, also 0 (broadcast). */
typedef struct mha_view {
  const float* data;
  int64_t stride_b, stride_t, stride_h, stride_d;
} mha_view;

/* The same for results: distinct elements must not overlap, so a stride may be 0 only where its dimension is <= 1. */
typedef struct mha_mut_view {
  float* data;
  int64_t stride_b, stride_t, stride_h, stride_d;
} mha_mut_view;

/* ---------------------------------------------------------------------------------------------------------------------
 * Masks: every one that is given applies. Query i sees key j where all of these hold:
 *   j < key_lengths[b]
 *   (j <= p(i) if causal, and window_right), or j < prefix_lengths[b]
 *   window_left, or j < sink_tokens
 *   segments, block_mask, bit_mask, bool_mask, add_mask != -inf
 * Chunks of 256 keys that no query of a block sees, additive mask left aside, are not read.
 * What is not visible cannot matter: a NaN or Inf in a masked key, value or mask entry never reaches a result.
 * A row with no visible key gives zeros (weights 0, log-sum-exp -inf); so does one whose visible scores are all -inf.
 */

/* Element (b, h, i, j) is data[b*stride_b + h*stride_h + i*stride_q + j]; data NULL: no mask. Strides of 0 broadcast.
 * Non-zero = query i may attend to key j (as True in torch's scaled_dot_product_attention; note that
 * nn.MultiheadAttention's key_padding_mask and boolean attn_mask mean the opposite). */
typedef struct mha_bool_mask {
  const uint8_t* data;
  int64_t stride_b, stride_h, stride_q;
} mha_bool_mask;

/* Laid out alike; added to the scaled score. -inf masks the key. */
typedef struct mha_add_mask {
  const float* data;
  int64_t stride_b, stride_h, stride_q;
} mha_add_mask;

typedef enum mha_causal {
  MHA_CAUSAL_NONE = 0,
  MHA_CAUSAL_BOTTOM_RIGHT = 1, /* query i sees keys j <= i + Tk - Tq: the last query sees every key */
  MHA_CAUSAL_OFFSET = 2        /* query i sees keys j <= i + causal_offset: 0 is top-left alignment */
} mha_causal;

/* One bit a key: bit j % 8 (least significant first) of byte j / 8 of row (b, h, i), which begins at
 * data[b*stride_b + h*stride_h + i*stride_q]; strides count bytes. Set = visible. data NULL: no mask. */
typedef struct mha_bit_mask {
  const uint8_t* data;
  int64_t stride_b, stride_h, stride_q;
} mha_bit_mask;

/* Block-sparse: queries fall into blocks of query_block, keys into blocks of key_block; a query sees the keys of the
 * blocks it is paired with. pairs [num_pairs][2]: (query block, key block), ascending and distinct, for every item and
 * head, counted within the item; blocks beyond the lengths do not matter. pairs NULL: no mask; num_pairs 0 beside pairs
 * that are given: nothing is visible. */
typedef struct mha_block_mask {
  int64_t query_block, key_block;
  const int64_t* pairs;
  int64_t num_pairs;
} mha_block_mask;

/* Query i stands at position p(i) = i + causal_offset with MHA_CAUSAL_OFFSET, else i + Tk - Tq (the last query at the
 * last key); key j at position j. Tq and Tk are those of the item where items differ. */
typedef struct mha_masks {
  mha_causal causal;
  int64_t causal_offset;      /* with MHA_CAUSAL_OFFSET, may be negative; |causal_offset| <= 2^62 */
  const int64_t* key_lengths; /* [B], each in [0, Tk]: item b has keys j < key_lengths[b]; NULL: Tk */
  mha_bool_mask bool_mask;
  mha_add_mask add_mask;
  mha_bit_mask bit_mask;
  mha_block_mask block_mask;
  int64_t window_left;           /* n >= 1: keys j > p(i) - n, so n keys with its own; 0: no limit */
  int64_t window_right;          /* n >= 1: keys j < p(i) + n; 0: no limit */
  int64_t sink_tokens;           /* keys j < sink_tokens stay visible beside window_left */
  const int64_t* prefix_lengths; /* [B], each >= 0: keys j < prefix_lengths[b] are visible whatever causal and
                                    window_right say (prefix-LM); NULL: none */
  const int32_t* query_segments; /* [B, Tq] dense (packed as query where items differ in length) and */
  const int32_t* key_segments;   /* [B, Tk] (packed as key; with a cache: Tk_b of each item, packed): query i sees keys
                                    of its own segment only. Both or none. */
} mha_masks;

/* What happens to scores besides masks, in this order: softcap, biases, masks, the softmax with its sink. A bias or a
 * sink that is NaN makes the rows NaN that see it; a sink of -inf is none. With a sink, a row with no visible key gives
 * zeros still, and its log-sum-exp is the sink's logit. tanh is within 3.2e-7 of it (6e-7 without FMA), relative to its
 * value. Positions p(i) are those of the masks, not of rope.
 *   score = cap * tanh(scale * <q, k> / cap) - alibi_slopes[h] * |p(i) - j| + relative_bias[h, j - p(i)] + add_mask
 *   weight_j = exp(score_j) / (sum over visible keys of exp(score) + exp(sink_logits[h])) */
typedef struct mha_score_mods {
  float softcap;              /* > 0: cap (Gemma 2, Grok), finite; 0: none */
  const float* alibi_slopes;  /* [H], each finite; NULL: none (arXiv 2108.12409) */
  const float* relative_bias; /* [H, relative_left + relative_right + 1]: entry relative_left + (j - p(i)), distances
                                  beyond either end take the end's; NULL: none. mha_t5_bias makes one from buckets */
  int64_t relative_left, relative_right; /* >= 0; with relative_bias */
  const float* sink_logits; /* [H]: a learned logit per head that takes weight and gives nothing (gpt-oss); zeros:
                                  "smooth softmax". It counts in log_sum_exp, and has no column in weights.
                                  NULL: none */
} mha_score_mods;

/* Expands T5's bucketed biases (arXiv 1910.10683) to distances: table [num_buckets, H] as in T5's checkpoints, result
 * [H, 2 * max_distance + 1] for relative_left = relative_right = max_distance. bidirectional: not 0 for encoders; 0 for
 * decoders, where keys after the query take the bucket of distance 0.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (num_heads < 1; num_buckets < 2, or odd and bidirectional; max_distance too
 * small for num_buckets), _OVERFLOW. */
MHA_API mha_status mha_t5_bias(const float* table, int64_t num_heads, int64_t num_buckets, int64_t max_distance,
                               int bidirectional, float* result, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Rotary positions (RoPE, arXiv 2104.09864) and RMS norm of queries and keys
 */

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

/* Pair d < dims/2 of a row at position p turns by the angle p * base^(-2 d / dims), as scaling changes it; the other
 * D - dims elements stay. Angles, sine and cosine are computed in double and rounded to float: the same bits
 * everywhere. */
typedef struct mha_rope {
  mha_rope_style style;
  int64_t dims; /* even, <= D and <= 1024: the first so many of a row; 0: D */
  double base;  /* > 1; 0: 10000 */
  mha_rope_scaling scaling;
  double factor;                            /* >= 1; not used without scaling */
  double low_freq_factor, high_freq_factor; /* LLAMA3; 0: 1 and 4 */
  double beta_fast, beta_slow;              /* YARN; 0: 32 and 1 */
  double attention_factor;                  /* YARN: multiplies sine and cosine; 0: 0.1 ln(factor) + 1 */
  int64_t original_positions;               /* LLAMA3, YARN: the length trained on, >= 1 */
  const float* cos; /* [table_positions, dims/2]: the caller's own table instead of base and scaling (both 0 then), */
  const float* sin; /* and the sines, of the same shape. NULL, both: angles as above */
  int64_t table_positions; /* >= 1 with a table: positions are less */
} mha_rope;

/* x -> x / sqrt(mean(x^2) + epsilon) * weight, over each row of D, before rotation. */
typedef struct mha_qk_norm {
  float epsilon;             /* > 0 and no denormal: 0 is refused here */
  const float* query_weight; /* [D]; NULL: ones */
  const float* key_weight;   /* [D]; NULL: ones */
} mha_qk_norm;

typedef struct mha_rope_args {
  int64_t batch, length, num_heads, head_dim; /* B, T, H or Hkv: >= 0, 0 writes nothing; D >= 1 */
  mha_view input;                             /* [B, T, heads, D] */
  mha_mut_view output;                        /* alike; may be the input itself, with the same strides */
  const int64_t* positions;                   /* [B, T] dense, each >= 0; NULL: first_position + t */
  int64_t first_position;                     /* >= 0, the same for every item; not used beside positions */
  const mha_rope* rope;                       /* NULL: no rotation */
  const float* norm_weight;                   /* [D], with norm_epsilon only; NULL: ones */
  float norm_epsilon;                         /* > 0 and no denormal: RMS norm first; 0: none */
} mha_rope_args;

/* Norms and rotates rows, for keys that the caller keeps. A pair (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin).
 * Numerics: a row's bits depend on it and its position alone; denormals count as zero.
 * Threads:  at most the context's. Needs no workspace, never allocates.
 * Returns:  MHA_OK; MHA_ERR_NULL, _ARGUMENT (dims odd or > D, a position < 0, > 2^31 - 1 or beyond the table, ...),
 *           _SHAPE (a table beside base or scaling, half a table), _STRIDE, _OVERFLOW, _UNSUPPORTED (dims > 1024). */
MHA_API mha_status mha_rope_apply(const mha_context* context, const mha_rope_args* args, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Cache: keys and values kept between calls, for one or more sequences, numbered from 0
 */

typedef struct mha_cache mha_cache;

typedef enum mha_cache_kind {
  MHA_CACHE_CONTIGUOUS = 0, /* each sequence has room for `capacity` tokens */
  MHA_CACHE_RING = 1,       /* each keeps its first sink_tokens and its last `capacity` tokens at least, for sliding
                               windows: capacity >= window_left - 1 + the most tokens that one call appends */
  MHA_CACHE_PAGED = 2       /* `capacity` tokens in pages that sequences take as they grow, and share after a fork */
} mha_cache_kind;

typedef struct mha_cache_config {
  mha_cache_kind kind;
  int64_t num_kv_heads;   /* Hkv, >= 1 */
  int64_t head_dim;       /* D, >= 1 */
  int64_t value_head_dim; /* Dv, 0: D */
  int64_t max_sequences;  /* 0: 1 */
  int64_t capacity;       /* tokens, >= 1: see mha_cache_kind; paged: of all sequences together, rounded up to pages */
  int64_t page_size;   /* paged: tokens in a page, any size >= 1 (multiples of 16 are fastest); 0: 64. Others: unused */
  int64_t sink_tokens; /* ring: first tokens kept beside the last `capacity`, see mha_masks.sink_tokens; 0: none */
  void* memory; /* where the tokens are kept, any alignment, the caller's until mha_cache_destroy; NULL: allocated */
  size_t memory_bytes; /* of `memory`: mha_cache_bytes at least */
} mha_cache_config;

/* Bytes that a cache of this configuration takes for its tokens (config.memory): known before it is made. memory and
 * memory_bytes are not looked at. Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT, _OVERFLOW. */
MHA_API mha_status mha_cache_bytes(const mha_cache_config* config, size_t* bytes, mha_error* error);
/* Makes an empty cache, which may be used with any context, target and thread count.
 * Threads: one writer a sequence: calls that change different sequences may run at once, also where these share pages,
 *          and so may calls that read sequences which no other call changes. mha_cache_append, _truncate, _remove,
 *          _load and mha_layer_forward with its _workspace and _explain change the sequences they name, mha_cache_fork
 *          the destination; all others read. mha_cache_reset and _destroy exclude every other call.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT, _OVERFLOW, _WORKSPACE (memory_bytes too small), _OUT_OF_MEMORY. On failure
 *          *cache is NULL. */
MHA_API mha_status mha_cache_create(const mha_context* context, const mha_cache_config* config, mha_cache** cache,
                                    mha_error* error);
MHA_API void mha_cache_destroy(mha_cache* cache); /* NULL is allowed; config.memory is the caller's again */
/* The configuration with every default filled in; NULL cache: does nothing. */
MHA_API void mha_cache_get_config(const mha_cache* cache, mha_cache_config* config);

typedef struct mha_append_args {
  int64_t batch;                /* B: sequences that grow, distinct; 0 does nothing */
  const int64_t* sequences;     /* [B], in any order; NULL: 0 .. B-1 */
  int64_t length;               /* T: new tokens of each, or of all where offsets are given */
  const int64_t* offsets;       /* [B+1] ascending from 0 to length: item b has tokens [offsets[b], offsets[b+1]) of key
                                  and value, packed one after the other (stride_b unused); NULL: T each */
  mha_view key;                 /* [B, T, Hkv, D], or [T, Hkv, D] packed */
  mha_view value;               /* [B, T, Hkv, Dv], or [T, Hkv, Dv] packed */
  const mha_rope* rope;         /* rotates keys on the way in; NULL: none */
  const int64_t* positions;     /* for rope: [B, T] dense, or [T] packed; NULL: the token's number in its sequence */
  const float* key_norm_weight; /* [D], with key_norm_epsilon only; NULL: ones */
  float key_norm_epsilon;       /* > 0 and no denormal: RMS norm of keys, before rotation; 0: none */
} mha_append_args;

/* Appends tokens to sequences, all or nothing: on failure the cache is as it was. A ring drops what is older than its
 * capacity, page by page. Values, and keys without norm and rope, are stored bit by bit.
 * Threads: at most the context's. Needs no workspace, never allocates.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (a sequence out of range or twice, ...), _SHAPE, _STRIDE, _OVERFLOW,
 *          _UNSUPPORTED (as mha_rope_apply), _FULL. */
MHA_API mha_status mha_cache_append(const mha_context* context, mha_cache* cache, const mha_append_args* args,
                                    mha_error* error);
/* Forgets the tokens from `length` on (rollback), as if they had never been appended, and gives their pages back; what
 * a ring dropped stays dropped. Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (beyond the sequence's length, or among the
 * tokens that a ring has dropped, between sink_tokens and mha_cache_first_kept). */
MHA_API mha_status mha_cache_truncate(mha_cache* cache, int64_t sequence, int64_t length, mha_error* error);
/* Makes the empty sequence `destination` equal to the first `length` tokens of `source` (-1: all). Paged: shares the
 * pages, takes none, and copies a page when one of its holders first writes to it; else copies the tokens.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (destination not empty; a length that mha_cache_truncate would refuse). */
MHA_API mha_status mha_cache_fork(mha_cache* cache, int64_t source, int64_t destination, int64_t length,
                                  mha_error* error);
/* Empties a sequence and gives its pages back. Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (no such sequence). */
MHA_API mha_status mha_cache_remove(mha_cache* cache, int64_t sequence, mha_error* error);
/* Empties all; NULL is allowed. */
MHA_API void mha_cache_reset(mha_cache* cache);
/* Tokens so far, dropped ones too. -1: no such sequence. */
MHA_API int64_t mha_cache_length(const mha_cache* cache, int64_t sequence);
/* The first token kept besides a ring's sink tokens: 0 unless some were dropped. -1: no such sequence. */
MHA_API int64_t mha_cache_first_kept(const mha_cache* cache, int64_t sequence);
/* Bytes of the pages that sequences hold, those that they share once. 0 for NULL. */
MHA_API size_t mha_cache_used_bytes(const mha_cache* cache);

/* Copies tokens [begin, begin + count) of a sequence out, as they were stored (rotated): key [count, Hkv, D], value
 * [count, Hkv, Dv]; views with stride_b 0 or dense. To import, append them without norm and rope. Never allocates.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (tokens beyond the length or no longer kept), _STRIDE, _OVERFLOW. */
MHA_API mha_status mha_cache_export(const mha_cache* cache, int64_t sequence, int64_t begin, int64_t count,
                                    const mha_mut_view* key, const mha_mut_view* value, mha_error* error);

/* One sequence as a block of bytes (a checksum of all of them included), for a cache of the same heads and widths, of
 * any kind that has room; what a ring has dropped is not in it. load copies into an empty sequence, or changes nothing;
 * bytes after the block are left alone. mha_cache_save_bytes is 0 for NULL and where there is no such sequence.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT (blob not aligned to 4 bytes, no such sequence, one that is not empty),
 *          _WORKSPACE (save: bytes too small), _BLOB (damaged, truncated, another version or other sizes), _FULL,
 *          _UNSUPPORTED (tokens were dropped, so only a ring that keeps as few sink_tokens can load it). */
MHA_API size_t mha_cache_save_bytes(const mha_cache* cache, int64_t sequence);
MHA_API mha_status mha_cache_save(const mha_cache* cache, int64_t sequence, void* blob, size_t bytes, mha_error* error);
MHA_API mha_status mha_cache_load(mha_cache* cache, int64_t sequence, const void* blob, size_t bytes, mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Attention on its own
 */

typedef enum mha_weights_mode {
  MHA_WEIGHTS_NONE = 0,
  MHA_WEIGHTS_PER_HEAD = 1, /* weights [B, H, Tq, Tk] */
  MHA_WEIGHTS_AVERAGED = 2, /* weights [B, Tq, Tk]: the mean over heads */
  MHA_WEIGHTS_KEY_SUMS = 3  /* weights [B, H, Tk]: the sum over queries, ascending: what each key was worth */
} mha_weights_mode;

/* Which queries' weights are returned (PER_HEAD, AVERAGED) or summed (KEY_SUMS). Not used with MHA_WEIGHTS_NONE. */
typedef struct mha_weight_rows {
  const int64_t* rows; /* [count] ascending, distinct, < Tq of each item, the same for every item; NULL: all */
  int64_t count;       /* weights are [B, H, count, Tk] or [B, count, Tk] then */
} mha_weight_rows;

typedef struct mha_attention_args {
  int64_t batch;          /* B */
  int64_t num_heads;      /* H, >= 1 unless nothing is to be done */
  int64_t num_kv_heads;   /* Hkv, 0: H. H % Hkv == 0; query head h uses key/value head h / (H / Hkv) */
  int64_t query_len;      /* Tq */
  int64_t key_len;        /* Tk */
  int64_t head_dim;       /* D, >= 1 */
  int64_t value_head_dim; /* Dv, 0: D */
  float scale;            /* 0: 1 / sqrt(D) */
  mha_view query;         /* [B, Tq, H, D] */
  mha_view key;           /* [B, Tk, Hkv, D] */
  mha_view value;         /* [B, Tk, Hkv, Dv] */
  mha_masks masks;
  mha_mut_view output; /* [B, Tq, H, Dv] */
  mha_weights_mode weights_mode;
  mha_mut_view weights; /* dense order: [B, H, Tq, Tk] or [B, Tq, Tk]; stride_t steps queries, stride_d keys */
  float* log_sum_exp;   /* [B, H, Tq] dense, natural log of the sum over visible keys of exp(score); NULL: not wanted */
  void* workspace;      /* NULL: taken from the context's allocator for the time of the call */
  size_t workspace_bytes; /* of `workspace`; any alignment */

  mha_score_mods mods;
  mha_weight_rows weight_rows;
  const mha_rope* rope;     /* rotates queries on the way in; keys are given rotated (mha_cache_append, mha_rope_apply);
                               NULL: none */
  const mha_qk_norm* norm;  /* RMS norm of queries before that; key_weight is not used; NULL: none */
  const int64_t* positions; /* of queries, for rope: [B, Tq] dense, or packed; NULL: p(i) of the masks, >= 0 then */

  /* Items of unequal length: item b has queries [query_offsets[b], query_offsets[b+1]) of query and output, packed one
   * after the other ([query_len, H, D]; stride_b unused), ascending from 0 to query_len; its log_sum_exp is [H, Tq_b]
   * at H * query_offsets[b]. Weights: [H, query_len, longest Tk_b] (AVERAGED without H), zeros beyond Tk_b; KEY_SUMS
   * [B, H, longest Tk_b]. NULL: Tq each. */
  const int64_t* query_offsets; /* [B+1] */
  const int64_t* key_offsets;   /* [B+1], the same for key and value and key_len; NULL: Tk each */
  /* Keys and values of item b are those of sequences[b] in `cache`; key, value, key_len and key_offsets are not used
   * then, Tk_b is the sequence's length. A ring that has dropped tokens must keep all that window_left and sink_tokens
   * of the masks show (MHA_ERR_ARGUMENT else). Where items next to each other share pages (mha_cache_fork), chunks that
   * they share are read once. NULL: key and value */
  const mha_cache* cache;
  const int64_t* sequences; /* [B], one may come twice; NULL: 0 .. B-1. Not used without cache */
} mha_attention_args;

/* Computes scaled dot-product attention for a batch of heads, without a Tq x Tk matrix in memory.
 *   output[b,i,h,:] = sum_j softmax_j(scale * <query[b,i,h,:], key[b,j,g,:]> + add_mask) * value[b,j,g,:]
 *   with g = h / (H / Hkv), over the visible keys j (mha_masks); mha_score_mods says what else goes into the softmax.
 * Shapes:   as in the struct. B, H or Tq = 0 succeeds and writes nothing; Tk = 0 gives zeros.
 * Requires: results overlap no input and no other result.
 * Numerics: f32 with f32 accumulation: one fused multiply-add chain per score (over d ascending) and per chunk of 256
 *           keys, chunks merged in ascending order by their log-sum-exp (online softmax: arXiv 1805.02867). exp2 by a
 *           degree-5 polynomial; weights below 2^-126 of the row's greatest are 0. A NaN in a visible query, key or
 *           value reaches exactly the rows that see it; a score of +inf makes its row NaN. The division by the sum
 *           comes last: values beyond FLT_MAX / Tk may overflow on the way. Denormals count as zero, whatever the
 *           caller's floating-point mode, which is left as found; rounding is to nearest. Measured error:
 *           tests/README.md.
 * Threads:  at most the context's. The same bits for any number.
 * Returns:  MHA_OK; MHA_ERR_NULL, _ARGUMENT, _SHAPE, _STRIDE, _OVERFLOW, _WORKSPACE, _OUT_OF_MEMORY, _UNSUPPORTED
 *           (rope.dims > 1024). */
MHA_API mha_status mha_attention(const mha_context* context, const mha_attention_args* args, mha_error* error);

/* Bytes of workspace that mha_attention needs for these arguments on this context, 0 where it does nothing. Pointers in
 * args are not read through and may be NULL (give a non-NULL one where the call will have one), but for query_offsets,
 * key_offsets, weight_rows.rows, cache and sequences: the bytes depend on what these say, so ask again when a cache has
 * grown. Returns: as mha_attention; MHA_ERR_NULL also for bytes NULL. */
MHA_API mha_status mha_attention_workspace(const mha_context* context, const mha_attention_args* args, size_t* bytes,
                                           mha_error* error);

/* Writes what mha_attention would do with these arguments and why (target, threads by the cost model, kernel, tiles,
 * work items, split, workspace), a "key: value" a line, zero-terminated, cut at `capacity` (0: text may be NULL).
 * *needed (may be NULL) gets the full length with the zero. Returns: as mha_attention_workspace; MHA_ERR_NULL also for
 * text NULL with a capacity. */
MHA_API mha_status mha_attention_explain(const mha_context* context, const mha_attention_args* args, char* text,
                                         size_t capacity, size_t* needed, mha_error* error);

/* Attention over a part of the keys, to be merged with the parts that others computed (a context split over processes):
 * one partial result for each chunk of 256 keys, so that merging them in ascending order gives the bits of one call
 * over all keys, provided that parts hold whole chunks (all but the last a multiple of 256 keys). Masks and p(i)
 * count from the part's first key: use MHA_CAUSAL_OFFSET, less the keys before the part, and give rope its positions.
 * output, log_sum_exp, weights and sink_logits are not used.
 * Shapes:   partials [chunks of the part, 1 for Tk = 0][B * H * Tq * (Dv + 2)] floats, opaque, the same on every FMA
 *           target; parts are merged by putting them one after the other. mha_attention_partial_floats counts them.
 * Requires: B items of the same length (a batch of packed items or of sequences of a cache: one by one). Workspace as
 *           for mha_attention without weights.
 * Returns:  as mha_attention; MHA_ERR_UNSUPPORTED for items of unequal length, MHA_ERR_WORKSPACE also where count is
 *           smaller than mha_attention_partial_floats says. */
MHA_API mha_status mha_attention_partial_floats(const mha_attention_args* args, int64_t* count, mha_error* error);
MHA_API mha_status mha_attention_partial(const mha_context* context, const mha_attention_args* args, float* partials,
                                         int64_t count, mha_error* error);

typedef struct mha_merge_args {
  int64_t batch, num_heads, query_len, value_head_dim; /* B, H, Tq: 0 writes nothing; Dv >= 1 */
  int64_t num_chunks;                                  /* of all parts; 0: zeros, log-sum-exp -inf or the sink */
  const float* partials;                               /* [num_chunks][B * H * Tq * (Dv + 2)] */
  const float* sink_logits;                            /* [H]; NULL: none */
  mha_mut_view output;                                 /* [B, Tq, H, Dv] */
  float* log_sum_exp;                                  /* [B, H, Tq]; NULL: not wanted */
} mha_merge_args;

/* Merges partial results of mha_attention_partial in the order given. Threads: at most the context's; the same bits for
 * any number. Needs no workspace, never allocates. Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT, _STRIDE, _OVERFLOW. */
MHA_API mha_status mha_attention_merge_partials(const mha_context* context, const mha_merge_args* args,
                                                mha_error* error);

/* Merges finished results over disjoint sets of keys by their log-sum-exp (cascade, ring attention): outputs[n]
 * [rows, Dv] and log_sum_exps[n] [rows], dense, n < num_parts, in the order given. output may be outputs[0];
 * log_sum_exp may be log_sum_exps[0], NULL: not wanted. num_parts 0, and rows that no part saw (-inf): zeros and -inf.
 * A sink belongs in one part only.
 *   lse = ln sum_n exp(lse_n);  output = sum_n exp(lse_n - lse) output_n
 * Numerics: in double, rounded once; the same bits on every target. Not bound to chunks, so not the bits of one call.
 * Threads:  at most the context's. Needs no workspace, never allocates.
 * Returns:  MHA_OK; MHA_ERR_NULL, _ARGUMENT, _OVERFLOW. */
MHA_API mha_status mha_attention_merge(const mha_context* context, int64_t num_parts, int64_t rows,
                                       int64_t value_head_dim, const float* const* outputs,
                                       const float* const* log_sum_exps, float* output, float* log_sum_exp,
                                       mha_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Linear: the packed GEMM on its own
 */

typedef struct mha_linear mha_linear;

/* Packs weight [out_features, in_features] (torch's nn.Linear layout, dense) and bias [out_features] (NULL: none). The
 * result is immutable, independent of the target, and may be shared by threads; the sources are not kept.
 * Returns: MHA_OK; MHA_ERR_NULL, MHA_ERR_ARGUMENT (a size < 1), MHA_ERR_OVERFLOW, MHA_ERR_OUT_OF_MEMORY. */
MHA_API mha_status mha_linear_create(const mha_context* context, int64_t in_features, int64_t out_features,
                                     const float* weight, const float* bias, mha_linear** linear, mha_error* error);
MHA_API void mha_linear_destroy(mha_linear* linear);
MHA_API int64_t mha_linear_in_features(const mha_linear* linear);
MHA_API int64_t mha_linear_out_features(const mha_linear* linear);

typedef struct mha_linear_args {
  int64_t rows;          /* M; 0 writes nothing */
  const float* input;    /* [M, in_features] */
  int64_t input_stride;  /* elements from row to row; 0: in_features */
  float* output;         /* [M, out_features]; overlaps no input */
  int64_t output_stride; /* 0: out_features; otherwise >= out_features */
} mha_linear_args;

/* Computes output[m,n] = bias[n] + sum_k input[m,k] * weight[n,k].
 * Numerics: one fused multiply-add chain over k ascending from 0, then the bias added. A row's bits depend on it alone.
 *           Denormals count as zero; rounding is to nearest, whatever the caller's floating-point mode.
 * Threads:  at most the context's. Needs no workspace, never allocates.
 * Returns:  MHA_OK; MHA_ERR_NULL, _ARGUMENT, _STRIDE, _OVERFLOW. */
MHA_API mha_status mha_linear_forward(const mha_context* context, const mha_linear* linear, const mha_linear_args* args,
                                      mha_error* error);

/* As mha_attention_explain, of mha_linear_forward; input and output may be NULL. Returns: as mha_linear_forward;
 * MHA_ERR_NULL also for text NULL with a capacity. */
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
  float scale;            /* 0: 1 / sqrt(D) */
  int add_zero_attn;      /* nn.MultiheadAttention's: one more key of zeros with a value of zeros, after bias_key, seen
                             by every query; 0: none. Neither it nor bias_key goes with a cache, packed keys, softcap,
                             ALiBi or relative_bias: MHA_ERR_UNSUPPORTED of mha_layer_forward */
} mha_layer_config;

/* Weights in torch's layout [out, in], dense. Either in_proj_weight (rows: H*D of query, Hkv*D of key, Hkv*Dv of value;
 * needs kdim == vdim == E) or the three; likewise for biases, where any may be NULL. */
typedef struct mha_layer_weights {
  const float* in_proj_weight; /* [H*D + Hkv*D + Hkv*Dv, E] */
  const float* query_weight;   /* [H*D, E] */
  const float* key_weight;     /* [Hkv*D, kdim] */
  const float* value_weight;   /* [Hkv*Dv, vdim] */
  const float* output_weight;  /* [out_dim, H*Dv] */
  const float* in_proj_bias;   /* [H*D + Hkv*D + Hkv*Dv] */
  const float* query_bias;
  const float* key_bias;
  const float* value_bias;
  const float* output_bias; /* [out_dim] */
  /* nn.MultiheadAttention's bias_k and bias_v: one more key [Hkv*D] that every query sees, and its value [Hkv*Dv]; both
   * or none (NULL). Weights that are returned get a column for it, and one for add_zero_attn. */
  const float* bias_key;
  const float* bias_value;
} mha_layer_weights;

/* Packs the weights. The layer is immutable and may be shared by threads and contexts; the sources are not kept.
 * Returns: MHA_OK; MHA_ERR_NULL, _ARGUMENT, _SHAPE, _OVERFLOW, _OUT_OF_MEMORY. On failure *layer is NULL. */
MHA_API mha_status mha_layer_create(const mha_context* context, const mha_layer_config* config,
                                    const mha_layer_weights* weights, mha_layer** layer, mha_error* error);
MHA_API void mha_layer_destroy(mha_layer* layer);
/* The configuration with every default filled in; NULL layer: does nothing. */
MHA_API void mha_layer_get_config(const mha_layer* layer, mha_layer_config* config);

/* The packed layer as one block of bytes: save it, map it back (mmap) on any target of the same byte order, and use it
 * without repacking. map keeps pointers into `blob`, which must stay unchanged until the layer is destroyed and be
 * aligned to 4 bytes (64 is fastest). It checks magic, format version, sizes and a checksum of the header, not of the
 * weights.
 * Returns: MHA_OK; MHA_ERR_NULL, MHA_ERR_WORKSPACE (save: bytes too small), MHA_ERR_ARGUMENT (map: alignment),
 * MHA_ERR_BLOB, MHA_ERR_OUT_OF_MEMORY. */
MHA_API size_t mha_layer_blob_bytes(const mha_layer* layer);
MHA_API mha_status mha_layer_save(const mha_layer* layer, void* blob, size_t bytes, mha_error* error);
MHA_API mha_status mha_layer_map(const mha_context* context, const void* blob, size_t bytes, mha_layer** layer,
                                 mha_error* error);

/* Views here have no heads: stride_h must be 0, dense order is [B, T, width]. */
typedef struct mha_forward_args {
  int64_t batch;     /* B */
  int64_t query_len; /* Tq */
  int64_t key_len;   /* Tk; must be Tq where key.data is NULL */
  mha_view query;    /* [B, Tq, E] */
  mha_view key;      /* [B, Tk, kdim]; data NULL: query (self-attention) */
  mha_view value;    /* [B, Tk, vdim]; data NULL: key */
  mha_masks masks;
  mha_mut_view output; /* [B, Tq, out_dim] */
  mha_weights_mode weights_mode;
  mha_mut_view weights; /* as in mha_attention_args */
  void* workspace;      /* as in mha_attention_args */
  size_t workspace_bytes;

  mha_score_mods mods;
  mha_weight_rows weight_rows;
  const mha_rope* rope;         /* rotates queries and keys; NULL: none */
  const mha_qk_norm* norm;      /* RMS norm of both, before; NULL: none */
  const int64_t* positions;     /* for rope: [B, Tq] dense, or packed, of queries (and of keys in self-attention).
                                   NULL: p(i) for queries; for keys j, or with a cache their numbers in the sequence */
  const int64_t* key_positions; /* [B, Tk] dense, or packed, of keys that are given, not in self-attention; NULL: j */
  const int64_t* query_offsets; /* [B+1]: query [query_len, E] and output [query_len, out_dim] packed, as in
                                   mha_attention_args; NULL: Tq each */
  const int64_t* key_offsets;   /* [B+1], the same for key, value and key_len; NULL: Tk each, in self-attention as
                                   query_offsets */
  /* Self-attention with a cache: the call projects the new tokens (query), norms and rotates, appends keys and values
   * to sequences[b], and attends to all that is there then. key, value, key_len and key_offsets are not used. The cache
   * needs the layer's Hkv, D and Dv. Where the call fails the cache is as it was. NULL: no cache */
  mha_cache* cache;
  const int64_t* sequences; /* [B], distinct; NULL: 0 .. B-1. Not used without cache */
} mha_forward_args;

/* Computes multi-head attention with projections.
 *   q = query Wq^T + bq,  k = key Wk^T + bk,  v = value Wv^T + bv  (split in heads);
 *   output = concat_h(attention(q_h, k_g, v_g)) Wo^T + bo          (mha_attention's formula)
 * Shapes:   as in the struct. B or Tq = 0 succeeds and writes nothing; a row with no visible key gives the output bias.
 * Numerics: as mha_attention and mha_linear_forward.
 * Threads:  at most the context's, one parallel region a call. The same bits for any number.
 * Returns:  as mha_attention; MHA_ERR_UNSUPPORTED also for added keys (mha_layer_config.add_zero_attn), MHA_ERR_FULL
 *           where the cache has no room. */
MHA_API mha_status mha_layer_forward(const mha_context* context, const mha_layer* layer, const mha_forward_args* args,
                                     mha_error* error);
/* As mha_attention_workspace and mha_attention_explain, of mha_layer_forward. Neither says whether a cache has room. */
MHA_API mha_status mha_layer_forward_workspace(const mha_context* context, const mha_layer* layer,
                                               const mha_forward_args* args, size_t* bytes, mha_error* error);
MHA_API mha_status mha_layer_forward_explain(const mha_context* context, const mha_layer* layer,
                                             const mha_forward_args* args, char* text, size_t capacity, size_t* needed,
                                             mha_error* error);

#ifdef __cplusplus
}
#endif

#endif /* MHA_MHA_H */
