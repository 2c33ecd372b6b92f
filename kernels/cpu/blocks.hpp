// Matrix-vector products with weights kept in blocks of 32, over one simd_*.hpp. A weight is widened in registers, to
// exactly the float32 number that it stands for, on its way from memory to the product.
#pragma once

namespace {

using deepseek::BlockCall;
using deepseek::kBlock;

constexpr int kParts = kBlock / kWidth;

template <int BITS>
inline void block_weights(const uint8_t* codes, float scale, float minimum, F* weights) {
  if (BITS == 4) {
    widen_nibbles(codes, scale, minimum, weights);
  } else {
    const int8_t* bytes = reinterpret_cast<const int8_t*>(codes);
    for (int part = 0; part < kParts; ++part) weights[part] = load(bytes + part * kWidth) * set1(scale);
  }
}

// ROWS rows of x times COLUMNS rows of the weight.
template <int BITS, int ROWS, int COLUMNS>
inline void block_tile(const BlockCall& c, Index row, Index n) {
  constexpr Index kBytes = kBlock * BITS / 8;
  const Index blocks = (c.k + kBlock - 1) / kBlock;
  const Index whole = c.k / kBlock;
  const float* x = c.x + row * c.x_stride;
  F acc[COLUMNS][ROWS];
  for (int j = 0; j < COLUMNS; ++j)
    for (int r = 0; r < ROWS; ++r) acc[j][r] = set1(0.0f);
  for (Index b = 0; b < blocks; ++b) {
    F values[ROWS][kParts];
    if (b < whole) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int part = 0; part < kParts; ++part)
          values[r][part] = load(x + r * c.x_stride + b * kBlock + part * kWidth);
    } else {
      for (int r = 0; r < ROWS; ++r) {
        float last[kBlock] = {};
        memcpy(last, x + r * c.x_stride + b * kBlock, static_cast<size_t>(c.k - b * kBlock) * sizeof(float));
        for (int part = 0; part < kParts; ++part) values[r][part] = load(last + part * kWidth);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; ++j) {
      const Index at = (n + j) * blocks + b;
      F weights[kParts];
      block_weights<BITS>(c.codes + at * kBytes, c.scale[at], BITS == 4 ? c.minimum[at] : 0.0f, weights);
#pragma GCC unroll 8
      for (int part = 0; part < kParts; ++part)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) acc[j][r] = fma(weights[part], values[r][part], acc[j][r]);
    }
  }
  for (int j = 0; j < COLUMNS; ++j)
    for (int r = 0; r < ROWS; ++r)
      c.out[(row + r) * c.out_stride + n + j] = sum(acc[j][r]) + (c.bias ? c.bias[n + j] : 0.0f);
}

template <int BITS, int ROWS>
inline void block_rows(const BlockCall& c, Index row, Index begin, Index end) {
  constexpr int kColumns = 4;
  Index n = begin;
  for (; n + kColumns <= end; n += kColumns) block_tile<BITS, ROWS, kColumns>(c, row, n);
  for (; n < end; ++n) block_tile<BITS, ROWS, 1>(c, row, n);
}

template <int BITS>
void block_gemv(const BlockCall& c) {
  constexpr Index kRowTile = 4;
  // Tiles small enough that the second group of rows finds the weights in cache.
  const Index tile = c.m <= kRowTile ? c.n1 - c.n0 : 16;
  for (Index n = c.n0; n < c.n1; n += tile) {
    const Index end = n + tile < c.n1 ? n + tile : c.n1;
    Index row = 0;
    for (; row + kRowTile <= c.m; row += kRowTile) block_rows<BITS, kRowTile>(c, row, n, end);
    if (c.m - row == 3) block_rows<BITS, 3>(c, row, n, end);
    if (c.m - row == 2) block_rows<BITS, 2>(c, row, n, end);
    if (c.m - row == 1) block_rows<BITS, 1>(c, row, n, end);
  }
}

}  // namespace
