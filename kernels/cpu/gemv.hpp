// Matrix-vector products of a few rows over one simd_*.hpp. The weight is read from memory once: a tile of it stays in
// registers and the nearest cache while every row of x goes past.
#pragma once

namespace {

using deepseek::GemvCall;

template <class T>
inline void finish(const GemvCall& c, Index row, Index n, float value) {
  if (c.scale) value *= c.scale[n];
  if (c.bias) value += widen(static_cast<const T*>(c.bias)[n]);
  narrow(value, static_cast<T*>(c.out) + row * c.out_stride + n);
}

constexpr Index kPrefetchBytes = 16 << 10;
constexpr Index kRowBytes = 32 << 10;

// ROWS rows of x times COLUMNS rows of a weight stored [n, k].
template <class W, class T, int ROWS, int COLUMNS>
inline void tile_n_major(const GemvCall& c, Index row, Index n) {
  const float* x = c.x + row * c.x_stride;
  const W* w = static_cast<const W*>(c.weight) + n * c.stride_n;
  F acc[COLUMNS][ROWS];
  for (int j = 0; j < COLUMNS; ++j)
    for (int r = 0; r < ROWS; ++r) acc[j][r] = set1(0.0f);
  const Index whole = c.k - c.k % kWidth;
  // The hardware prefetcher loses the streams at each row's end, so ask for the next tile, if the nearest cache has room.
  const bool room = COLUMNS * c.k * static_cast<Index>(sizeof(W)) <= kPrefetchBytes;
  const W* ahead = room ? w + COLUMNS * c.stride_n : w;
  for (Index i = 0; i < whole; i += kWidth) {
    F weights[COLUMNS];
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; ++j) {
      weights[j] = load(w + j * c.stride_n + i);
      __builtin_prefetch(ahead + j * c.stride_n + i);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F values = load(x + r * c.x_stride + i);
#pragma GCC unroll 8
      for (int j = 0; j < COLUMNS; ++j) acc[j][r] = fma(weights[j], values, acc[j][r]);
    }
  }
  if (const Index rest = c.k - whole) {
    for (int j = 0; j < COLUMNS; ++j) {
      const F weights = load_part(w + j * c.stride_n + whole, rest);
      for (int r = 0; r < ROWS; ++r)
        acc[j][r] = fma(weights, load_part(x + r * c.x_stride + whole, rest), acc[j][r]);
    }
  }
  for (int j = 0; j < COLUMNS; ++j)
    for (int r = 0; r < ROWS; ++r) finish<T>(c, row + r, n + j, sum(acc[j][r]));
}

// One row of x times rows of a weight [n, k] that follow each other in memory: a single stream from end to end, which
// the hardware follows best. Asking 8 KiB ahead hides what is left of memory's latency: 28 GB/s beside 22 with four
// rows of the weight at once, on two cores of a Zen 4.
constexpr Index kAheadBytes = 8 << 10;

template <class W, class T>
inline void stream_n_major(const GemvCall& c, Index row, Index begin, Index end) {
  constexpr int kUnroll = 4;
  constexpr Index kStep = kUnroll * kWidth;
  constexpr Index kLine = 64 / static_cast<Index>(sizeof(W));
  const float* x = c.x + row * c.x_stride;
  const Index stepped = c.k - c.k % kStep;
  const Index whole = c.k - c.k % kWidth;
  for (Index n = begin; n < end; ++n) {
    const W* w = static_cast<const W*>(c.weight) + n * c.stride_n;
    F acc[kUnroll];
    for (int u = 0; u < kUnroll; ++u) acc[u] = set1(0.0f);
    for (Index i = 0; i < stepped; i += kStep) {
      for (Index line = 0; line < kStep; line += kLine)
        __builtin_prefetch(w + i + line + kAheadBytes / static_cast<Index>(sizeof(W)));
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u)
        acc[u] = fma(load(w + i + u * kWidth), load(x + i + u * kWidth), acc[u]);
    }
    for (Index i = stepped; i < whole; i += kWidth) acc[0] = fma(load(w + i), load(x + i), acc[0]);
    if (const Index rest = c.k - whole)
      acc[1] = fma(load_part(w + whole, rest), load_part(x + whole, rest), acc[1]);
    finish<T>(c, row, n, sum((acc[0] + acc[1]) + (acc[2] + acc[3])));
  }
}

template <class W, class T, int ROWS>
inline void block_n_major(const GemvCall& c, Index row, Index begin, Index end) {
  if constexpr (ROWS == 1 && sizeof(W) > 1) {
    if (c.stride_n == c.k) return stream_n_major<W, T>(c, row, begin, end);
  }
  constexpr int kColumns = ROWS <= 4 ? 4 : 2;
  Index n = begin;
  for (; n + kColumns <= end; n += kColumns) tile_n_major<W, T, ROWS, kColumns>(c, row, n);
  for (; n < end; ++n) tile_n_major<W, T, ROWS, 1>(c, row, n);
}

// ROWS rows of x times STEPS rows of a weight stored [k, n], added to the float32 sums of one tile of columns.
constexpr Index kTile = 512;

template <class W, int ROWS, int STEPS>
inline void step_k_major(const GemvCall& c, Index row, Index n, Index count, Index i, float (*sums)[kTile]) {
  const W* w = static_cast<const W*>(c.weight) + i * c.stride_k + n;
  const float* x = c.x + row * c.x_stride + i;
  Index j = 0;
  for (; j + kWidth <= count; j += kWidth) {
    F weights[STEPS];
#pragma GCC unroll 8
    for (int s = 0; s < STEPS; ++s) weights[s] = load(w + s * c.stride_k + j);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      F total = load(sums[r] + j);
#pragma GCC unroll 8
      for (int s = 0; s < STEPS; ++s) total = fma(weights[s], set1(x[r * c.x_stride + s]), total);
      store(sums[r] + j, total);
    }
  }
  for (; j < count; ++j)
    for (int r = 0; r < ROWS; ++r)
      for (int s = 0; s < STEPS; ++s) sums[r][j] += widen(w[s * c.stride_k + j]) * x[r * c.x_stride + s];
}

template <class W, class T, int ROWS>
inline void block_k_major(const GemvCall& c, Index row, Index begin, Index end) {
  constexpr int kSteps = 8;
  float sums[ROWS][kTile];
  memset(sums, 0, sizeof sums);
  Index i = 0;
  for (; i + kSteps <= c.k; i += kSteps) step_k_major<W, ROWS, kSteps>(c, row, begin, end - begin, i, sums);
  for (; i < c.k; ++i) step_k_major<W, ROWS, 1>(c, row, begin, end - begin, i, sums);
  for (int r = 0; r < ROWS; ++r)
    for (Index n = begin; n < end; ++n) finish<T>(c, row + r, n, sums[r][n - begin]);
}

template <class W, class T, int ROWS>
inline void block(const GemvCall& c, Index row, Index begin, Index end) {
  if (c.stride_k == 1) {
    block_n_major<W, T, ROWS>(c, row, begin, end);
  } else {
    block_k_major<W, T, ROWS>(c, row, begin, end);
  }
}

template <class W, class T>
void gemv(const GemvCall& c) {
  // As many rows at once as registers hold, if x then fits in the nearest cache beside the weights.
  const Index row_bytes = c.k * static_cast<Index>(sizeof(float));
  const bool wide = c.stride_k != 1 || (sizeof(W) == sizeof(float) && kMaxRows * row_bytes <= kRowBytes);
  const Index most = wide ? kMaxRows : 4;
  // Tiles small enough that the second group of rows finds the weights in cache.
  const Index tile = c.stride_k != 1 ? kTile : c.m <= most ? c.n1 - c.n0 : 16;
  for (Index n = c.n0; n < c.n1; n += tile) {
    const Index end = n + tile < c.n1 ? n + tile : c.n1;
    Index row = 0;
    if (most == kMaxRows)
      for (; row + kMaxRows <= c.m; row += kMaxRows) block<W, T, kMaxRows>(c, row, n, end);
    for (; row + 4 <= c.m; row += 4) block<W, T, 4>(c, row, n, end);
    if (c.m - row == 3) block<W, T, 3>(c, row, n, end);
    if (c.m - row == 2) block<W, T, 2>(c, row, n, end);
    if (c.m - row == 1) block<W, T, 1>(c, row, n, end);
  }
}

}  // namespace
