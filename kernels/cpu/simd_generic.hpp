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
