// Conversions of single elements. In an anonymous namespace: each instruction set compiles its own copy.
#pragma once

#include <string.h>

#include "table.hpp"

namespace {

using deepseek::bf16;
using deepseek::f16;
using deepseek::Index;

inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float widen(float value) { return value; }
inline float widen(int8_t value) { return static_cast<float>(value); }
inline float widen(bf16 value) { return from_bits(static_cast<uint32_t>(value.bits) << 16); }
inline float widen(f16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent bias from 15 to 127 and makes subnormals normal, exactly.
  return from_bits(sign | to_bits(from_bits(magnitude << 13) * from_bits(0x77800000u)));
}

inline void narrow(float value, float* out) { *out = value; }
inline void narrow(float value, bf16* out) {
  const uint32_t bits = to_bits(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void narrow(float value, f16* out) {  // round to nearest, ties to even
  const uint32_t bits = to_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the subnormal's bits at the bottom
    half = to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace
