// Sixteen float lanes: AVX-512 F, BW, DQ and VL.
#pragma once

#include <immintrin.h>

#include "scalar.hpp"

namespace {

typedef __m512 F;
constexpr Index kWidth = 16;
constexpr int kMaxRows = 8;

inline F set1(float value) { return _mm512_set1_ps(value); }

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load(const bf16* p) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
inline F load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F load(const int8_t* p) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw));
}

// 32 four-bit codes to code * scale + minimum: the sixteen values that a code can mean are a table in one register.
inline void widen_nibbles(const uint8_t* codes, float scale, float minimum, F* weights) {
  const F all = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const F values = _mm512_fmadd_ps(all, set1(scale), set1(minimum));
  const __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  weights[0] = _mm512_permutexvar_ps(low, values);  // reads the lowest four bits of each lane
  weights[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(low, 4), values);
}

inline void store(float* p, F value) { _mm512_storeu_ps(p, value); }
inline void store(bf16* p, F value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i words = _mm512_mask_blend_epi32(is_nan, rounded, _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(words));
}
inline void store(f16* p, F value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F select_negative(F test, F yes, F no) {
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(test)), no, yes);
}
inline float sum(F v) { return _mm512_reduce_add_ps(v); }

inline F round_to_int(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F scale_pow2(F v, F n) { return _mm512_scalef_ps(v, n); }

}  // namespace
