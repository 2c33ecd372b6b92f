// Float32 values as int8 codes with one scale for each group of 256, for what goes over a slow link. Plain loops: the
// compiler turns them into the instruction set that the file is compiled for.
#pragma once

#include <math.h>

namespace {

inline uint32_t magnitude_bits(float value) {  // ordered like the magnitudes, with NaN above infinity
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffu;
}

// What a group's codes do not hold is left in `error`, if there is one, and added to the values of the next time.
void encode_group(const float* x, float* error, int8_t* codes, float* scale, Index count) {
  float values[deepseek::kGroup];
  uint32_t top = 0;
  for (Index i = 0; i < count; ++i) {
    values[i] = error ? x[i] + error[i] : x[i];
    const uint32_t bits = magnitude_bits(values[i]);
    top = bits > top ? bits : top;
  }
  float largest;
  memcpy(&largest, &top, sizeof largest);
  if (top >= 0x7f800000u) {  // infinity or NaN: all of the group's values become that
    *scale = largest;
    for (Index i = 0; i < count; ++i) codes[i] = 1;
    if (error) memset(error, 0, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  // The inverse of a smaller one would be infinite.
  const float step = largest < 1e-30f ? 0.0f : largest / 127.0f, inverse = step > 0.0f ? 127.0f / largest : 0.0f;
  *scale = step;
  for (Index i = 0; i < count; ++i) {
    const float rounded = nearbyintf(values[i] * inverse);
    codes[i] = static_cast<int8_t>(static_cast<int32_t>(rounded));
    if (error) error[i] = values[i] - rounded * step;
  }
}

void decode_group(const int8_t* codes, float scale, float* out, Index count, int adds) {
  if (adds) {
    for (Index i = 0; i < count; ++i) out[i] += scale * static_cast<float>(codes[i]);
  } else {
    for (Index i = 0; i < count; ++i) out[i] = scale * static_cast<float>(codes[i]);
  }
}

}  // namespace
