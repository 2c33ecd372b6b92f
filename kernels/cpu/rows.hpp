// Row-wise kernels over one simd_*.hpp: LayerNorm, bias + GELU, widening to float32.
#pragma once

#include <math.h>

namespace {

template <class T>
inline F load_part(const T* p, Index count) {  // the missing lanes are zero
  T lanes[kWidth] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}

template <class T>
inline void store_part(T* p, F value, Index count) {
  T lanes[kWidth];
  store(lanes, value);
  memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
inline F load_or(const T* p, Index i, float missing) {
  return p ? load(p + i) : set1(missing);
}

template <class T>
inline F load_part_or(const T* p, Index i, Index count, float missing) {
  return p ? load_part(p + i, count) : set1(missing);
}

template <class T, class Out>
void layer_norm_row(const void* x_, const void* gamma_, const void* beta_, void* out_, Index k, float eps) {
  const T* x = static_cast<const T*>(x_);
  const T* gamma = static_cast<const T*>(gamma_);
  const T* beta = static_cast<const T*>(beta_);
  Out* out = static_cast<Out*>(out_);
  const Index whole = k - k % kWidth;
  const Index paired = k - k % (2 * kWidth);
  const Index rest = k - whole;

  // Two sums hide the latency of the additions; deviations are squared around the mean, so nothing cancels.
  F sum0 = set1(0.0f), sum1 = set1(0.0f);
  Index i = 0;
  for (; i < paired; i += 2 * kWidth) {
    sum0 = sum0 + load(x + i);
    sum1 = sum1 + load(x + i + kWidth);
  }
  if (i < whole) sum0 = sum0 + load(x + i);
  if (rest) sum1 = sum1 + load_part(x + whole, rest);
  const float mean = sum(sum0 + sum1) / static_cast<float>(k);
  const F mean_lanes = set1(mean);

  F squares0 = set1(0.0f), squares1 = set1(0.0f);
  for (i = 0; i < paired; i += 2 * kWidth) {
    const F d0 = load(x + i) - mean_lanes, d1 = load(x + i + kWidth) - mean_lanes;
    squares0 = fma(d0, d0, squares0);
    squares1 = fma(d1, d1, squares1);
  }
  if (i < whole) {
    const F d = load(x + i) - mean_lanes;
    squares0 = fma(d, d, squares0);
  }
  float total = sum(squares0 + squares1);
  for (i = whole; i < k; ++i) total += (widen(x[i]) - mean) * (widen(x[i]) - mean);
  const F inverse = set1(1.0f / sqrtf(total / static_cast<float>(k) + eps));

  for (i = 0; i < whole; i += kWidth) {
    const F normal = (load(x + i) - mean_lanes) * inverse;
    store(out + i, fma(normal, load_or(gamma, i, 1.0f), load_or(beta, i, 0.0f)));
  }
  if (rest) {
    const F normal = (load_part(x + i, rest) - mean_lanes) * inverse;
    store_part(out + i, fma(normal, load_part_or(gamma, i, rest, 1.0f), load_part_or(beta, i, rest, 0.0f)), rest);
  }
}

// Cephes expf: 2^n times a polynomial on [-ln2/2, ln2/2]; relative error below 2e-7 inside the clamp.
inline F exp_lanes(F x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));
  const F n = round_to_int(x * set1(1.44269504088896341f));
  const F r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), x));
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  return scale_pow2(fma(p, r * r, r + set1(1.0f)), n);
}

// x * Phi(x) with erfc(z) = t * poly(t) * exp(-z^2), t = 1 / (1 + 0.3275911 z);
// Abramowitz and Stegun 7.1.26, |error| < 1.5e-7.
inline F gelu_erf(F x) {
  const F magnitude = max(x, -x);
  const F z = magnitude * set1(0.70710678118654752f);
  const F t = set1(1.0f) / fma(set1(0.3275911f), z, set1(1.0f));
  F p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  const F tail = set1(0.5f) * p * t * exp_lanes(-(z * z));
  return x * select_negative(x, tail, set1(1.0f) - tail);
}

// 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
inline F gelu_tanh(F x) {
  const F minus_2u = x * fma(x * x, set1(-0.0713548162726f), set1(-1.5957691216057308f));
  return x / (set1(1.0f) + exp_lanes(minus_2u));
}

template <class T, class Out>
void gelu_row(const void* x_, const void* bias_, void* out_, Index k, int gelu) {
  const T* x = static_cast<const T*>(x_);
  const T* bias = static_cast<const T*>(bias_);
  Out* out = static_cast<Out*>(out_);
  const Index whole = k - k % kWidth;
  const Index rest = k - whole;
  for (Index i = 0; i < whole; i += kWidth) {
    const F v = bias ? load(x + i) + load(bias + i) : load(x + i);
    store(out + i, gelu == 0 ? gelu_erf(v) : gelu_tanh(v));
  }
  if (rest) {
    const F v = load_part(x + whole, rest) + load_part_or(bias, whole, rest, 0.0f);
    store_part(out + whole, gelu == 0 ? gelu_erf(v) : gelu_tanh(v), rest);
  }
}

template <class T>
void to_float_row(const void* x_, float* out, Index k) {
  const T* x = static_cast<const T*>(x_);
  const Index whole = k - k % kWidth;
  for (Index i = 0; i < whole; i += kWidth) store(out + i, load(x + i));
  for (Index i = whole; i < k; ++i) out[i] = widen(x[i]);
}

}  // namespace
