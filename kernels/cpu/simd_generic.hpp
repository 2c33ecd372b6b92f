// Four float lanes by the compiler's vector extension: SSE2 on x86-64, NEON on AArch64.
#pragma once

#include "scalar.hpp"

namespace {

typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
constexpr Index kWidth = 4;
constexpr int kMaxRows = 4;  // rows of x for which the sums of one weight tile fit in registers

inline F set1(float value) { return F{value, value, value, value}; }

template <class T>
inline F load(const T* p) {
  return F{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
}
inline F load(const float* p) {
  F value;
  memcpy(&value, p, sizeof value);
  return value;
}

// 32 four-bit codes to code * scale + minimum. The product of a 4-bit code and a scale of 20 bits is exact.
inline void widen_nibbles(const uint8_t* codes, float scale, float minimum, F* weights) {
  float low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    low[i] = static_cast<float>(codes[i] & 15) * scale + minimum;
    high[i] = static_cast<float>(codes[i] >> 4) * scale + minimum;
  }
  for (int part = 0; part < 4; ++part) {
    weights[part] = load(low + 4 * part);
    weights[part + 4] = load(high + 4 * part);
  }
}

template <class T>
inline void store(T* p, F value) {
  for (int i = 0; i < 4; ++i) narrow(value[i], p + i);
}
inline void store(float* p, F value) { memcpy(p, &value, sizeof value); }

inline F fma(F a, F b, F c) { return a * b + c; }
inline F min(F a, F b) { return a < b ? a : b; }  // b when either is NaN
inline F max(F a, F b) { return a > b ? a : b; }
inline F select_negative(F test, F yes, F no) { return test < 0.0f ? yes : no; }
inline float sum(F v) { return (v[0] + v[2]) + (v[1] + v[3]); }

inline F round_to_int(F v) {  // |v| < 2^22: the float's own rounding leaves an integer
  const F shift = set1(12582912.0f);
  return (v + shift) - shift;
}
inline F scale_pow2(F v, F n) {  // v * 2^n for integral -126 <= n <= 127
  const I exponent = (__builtin_convertvector(n, I) + 127) << 23;
  F scale;
  memcpy(&scale, &exponent, sizeof scale);
  return v * scale;
}

}  // namespace
