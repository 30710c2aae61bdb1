// SPDX-License-Identifier: Apache-2.0
// Tiles of AMX: 16 rows of 64 bytes each, here always whole. MHA_TILES_EMULATED: the same in memory, element by element, so
// that what is built on tiles is tested on machines without them. Included by algorithms-inl.h, once per such target.
//
// A product: c[m][n] += sum over k of the pairs a[m][k] * b[k][n], 16 pairs. From 0 one chain of fused multiply-adds over the
// lower halves, k ascending, and one over the upper halves; their sum is added to c (Intel's manual, TDPBF16PS: nearest even,
// denormals as zero, whatever MXCSR says). In INT8 words are four bytes and c integers: c[m][n] += sum over k of the products
// of the bytes of a[m][k] and b[k][n], exact.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int64_t kTileSide = 16;

// Which bytes are signed.
enum class TileBytes { kSigned, kUnsignedRows };

#if defined(MHA_TILES_EMULATED)

struct TileMemory {
  alignas(64) uint32_t words[8][kTileSide][kTileSide];
};
// Tests use it on one thread at a time.
inline TileMemory& tile_memory() {
  static thread_local TileMemory memory;
  return memory;
}

// Tiles are usable while one of these lives.
struct TileSession {
  TileSession() {}
};

template <int kTile>
inline void tile_clear() {
  memset(tile_memory().words[kTile], 0, sizeof(tile_memory().words[kTile]));
}
template <int kTile>
inline void tile_load(const float* p, int64_t stride) {
  for (int64_t r = 0; r < kTileSide; ++r) memcpy(tile_memory().words[kTile][r], p + r * stride, 64);
}
template <int kTile>
inline void tile_store(float* p, int64_t stride) {
  for (int64_t r = 0; r < kTileSide; ++r) memcpy(p + r * stride, tile_memory().words[kTile][r], 64);
}
inline float half_of_word(uint32_t word, bool upper) {
  const uint32_t bits = upper ? word & 0xffff0000u : word << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
template <int kC, int kA, int kB>
inline void tile_multiply() {
  TileMemory& t = tile_memory();
  for (int64_t m = 0; m < kTileSide; ++m) {
    for (int64_t n = 0; n < kTileSide; ++n) {
      float chains[2] = {0, 0}, c;
      for (int64_t k = 0; k < kTileSide; ++k) {
        for (int upper = 0; upper < 2; ++upper) {
          const __m128 a = _mm_set_ss(half_of_word(t.words[kA][m][k], upper != 0));
          const __m128 b = _mm_set_ss(half_of_word(t.words[kB][k][n], upper != 0));
          chains[upper] = _mm_cvtss_f32(_mm_fmadd_ss(a, b, _mm_set_ss(chains[upper])));
        }
      }
      memcpy(&c, &t.words[kC][m][n], sizeof(c));
      c += chains[0] + chains[1];
      memcpy(&t.words[kC][m][n], &c, sizeof(c));
    }
  }
}

// The number that the low 8 bits stand for in two's complement.
inline int32_t signed_byte(uint32_t byte) { return static_cast<int32_t>(byte ^ 0x80) - 0x80; }

template <TileBytes kBytes, int kC, int kA, int kB>
inline void tile_multiply_bytes() {
  TileMemory& t = tile_memory();
  for (int64_t m = 0; m < kTileSide; ++m) {
    for (int64_t n = 0; n < kTileSide; ++n) {
      for (int64_t k = 0; k < kTileSide; ++k) {
        for (int shift = 0; shift < 32; shift += 8) {
          const uint32_t byte = t.words[kA][m][k] >> shift & 0xFF;
          const int32_t a = kBytes == TileBytes::kSigned ? signed_byte(byte) : static_cast<int32_t>(byte);
          const int32_t b = signed_byte(t.words[kB][k][n] >> shift & 0xFF);
          t.words[kC][m][n] += static_cast<uint32_t>(a * b);
        }
      }
    }
  }
}

#else

// Configures all eight tiles, and gives them back, so that threads of the host's that run afterwards save no tiles.
struct TileSession {
  TileSession() {
    alignas(64) uint8_t config[64] = {};
    config[0] = 1;  // palette
    for (int t = 0; t < 8; ++t) config[16 + 2 * t] = 64, config[48 + t] = kTileSide;
    // gcc 12's own intrinsic says that it reads 8 bytes, and the stores of the others may be left out.
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  ~TileSession() { __asm__ volatile("tilerelease" : : : "memory"); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

// The compiler's own intrinsics take the number of a tile as text of a macro.
template <int kTile>
MHA_INLINE void tile_clear() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
MHA_INLINE void tile_load(const float* p, int64_t stride) {
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(p), "r"(bytes) : "memory");
}
template <int kTile>
MHA_INLINE void tile_store(float* p, int64_t stride) {
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(p), "r"(bytes) : "memory");
}
template <int kC, int kA, int kB>
MHA_INLINE void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
template <TileBytes kBytes, int kC, int kA, int kB>
MHA_INLINE void tile_multiply_bytes() {
  if constexpr (kBytes == TileBytes::kSigned) {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  } else {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
}

#endif

}  // namespace
}  // namespace mha::MHA_TARGET_NS
