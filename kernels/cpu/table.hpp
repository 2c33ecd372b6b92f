// What one instruction set offers to the dispatcher: a table of serial kernels, indexed by dtype code.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace deepseek {

using Index = int64_t;

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// x: one row of k elements. The result is float32 (`to_float`) or of x's own dtype.
using LayerNormRow = void (*)(const void* x, const void* gamma, const void* beta, void* out, Index k, float eps);
using GeluRow = void (*)(const void* x, const void* bias, void* out, Index k, int gelu);
using ConvertRow = void (*)(const void* x, float* out, Index k);

// The rows n0 <= n < n1 of a weight [n, k] times m rows of float32 x (x_stride apart); out rows are out_stride apart.
struct GemvCall {
  const float* x;
  Index x_stride;
  const void* weight;
  Index stride_n, stride_k;
  const float* scale;
  const void* bias;
  void* out;
  Index out_stride;
  Index m, n0, n1, k;
};
using Gemv = void (*)(const GemvCall&);

// A float32 weight [n, k] kept in blocks of 32 along k: element = code * scale (+ minimum), one of each a block.
// 8-bit codes are int8, 32 bytes a block; 4-bit ones take 16 bytes, element i in the low and i + 16 in the high half.
constexpr Index kBlock = 32;
struct BlockCall {
  const float* x;
  Index x_stride;
  const uint8_t* codes;
  const float* scale;
  const float* minimum;
  const float* bias;
  float* out;
  Index out_stride;
  Index m, n0, n1, k;
};
using BlockGemv = void (*)(const BlockCall&);

// One group of at most kGroup values; see exchange.hpp.
constexpr Index kGroup = 256;
using EncodeGroup = void (*)(const float* x, float* error, int8_t* codes, float* scale, Index count);
using DecodeGroup = void (*)(const int8_t* codes, float scale, float* out, Index count, int adds);

enum WeightKind { kWeightLikeX = 0, kWeightInt8 = 1, kWeightBf16 = 2, kWeightF16 = 3 };

struct Table {
  const char* name;
  LayerNormRow layer_norm[3], layer_norm_to_float[3];
  GeluRow gelu[3], gelu_to_float[3];
  ConvertRow to_float[3];
  Gemv gemv[4][3];  // [WeightKind][dtype of out and bias]
  BlockGemv block_gemv[2];  // 4-bit codes, 8-bit codes
  EncodeGroup encode_group;
  DecodeGroup decode_group;
};

const Table* generic_table();
#if defined(__x86_64__) || defined(_M_X64)
#define DEEPSEEK_X86 1
const Table* avx2_table();
const Table* avx512_table();
#endif

}  // namespace deepseek
