// The C interface: chooses the instruction set, splits the work over OpenMP threads, owns the scratch memory.
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "abi.h"
#include "table.hpp"

namespace {

using deepseek::GemvCall;
using deepseek::Index;
using deepseek::Table;

const Table* find_table(const char* name) {  // NULL name: the best that this processor runs
#ifdef DEEPSEEK_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (!name || !strcmp(name, "avx512"))) return deepseek::avx512_table();
  if (avx2 && (!name || !strcmp(name, "avx2"))) return deepseek::avx2_table();
#endif
  if (!name || !strcmp(name, "generic")) return deepseek::generic_table();
  return nullptr;
}

std::atomic<const Table*> active{nullptr};

const Table& table() {
  const Table* current = active.load(std::memory_order_acquire);
  if (!current) active.store(current = find_table(nullptr), std::memory_order_release);
  return *current;
}

// Below this many multiply-adds per thread, waking a thread costs more than it saves.
constexpr Index kWorkPerThread = 1 << 15;
constexpr Index kRowsPerBlock = 64;

int threads_for(Index work, int32_t num_threads) {
  const Index useful = work / kWorkPerThread;
  return static_cast<int>(useful < 1 ? 1 : useful < num_threads ? useful : num_threads);
}

Index element_size(int32_t dtype) { return dtype == DEEPSEEK_F32 ? 4 : 2; }

const void* row_of(const void* base, Index row, Index stride, int32_t dtype) {
  return static_cast<const char*>(base) + row * stride * element_size(dtype);
}

struct Prologue {  // what happens to a row of x before the product
  enum Kind { kNone, kLayerNorm, kGelu } kind;
  const void* first;
  const void* second;
  float eps;
  int gelu;
};

void apply(const Prologue& p, const void* x, float* out, Index k, int32_t dtype) {
  if (p.kind == Prologue::kLayerNorm) table().layer_norm_to_float[dtype](x, p.first, p.second, out, k, p.eps);
  if (p.kind == Prologue::kGelu) table().gelu_to_float[dtype](x, p.first, out, k, p.gelu);
  if (p.kind == Prologue::kNone) table().to_float[dtype](x, out, k);
}

bool valid(const void* x, const void* out, Index m, Index k, int32_t dtype, int32_t num_threads) {
  return m >= 0 && k >= 0 && dtype >= DEEPSEEK_F32 && dtype <= DEEPSEEK_F16 && num_threads >= 1 &&
         (m == 0 || ((x || k == 0) && out));
}

int32_t product(const Prologue& prologue, const void* x, Index x_stride, const void* weight,
                deepseek::WeightKind kind, Index stride_n, Index stride_k, const float* scale, const void* bias,
                void* out, Index m, Index n, Index k, int32_t dtype, int32_t num_threads) {
  if (m == 0 || n == 0) return DEEPSEEK_OK;
  if (!valid(x, out, m, k, dtype, num_threads) || n < 0 || (!weight && k) || (stride_n != 1 && stride_k != 1))
    return DEEPSEEK_BAD_ARGUMENT;
  const bool direct = prologue.kind == Prologue::kNone && dtype == DEEPSEEK_F32;
  const Index block = m < kRowsPerBlock ? m : kRowsPerBlock;
  float* scratch = nullptr;
  if (!direct && k) {
    scratch = static_cast<float*>(malloc(static_cast<size_t>(block * k) * sizeof(float)));
    if (!scratch) return DEEPSEEK_NO_MEMORY;
  }
  for (Index first = 0; first < m; first += block) {
    const Index rows = m - first < block ? m - first : block;
    const int team = threads_for(rows * n * k, num_threads);
    const GemvCall call = {direct ? static_cast<const float*>(x) + first * x_stride : scratch,
                           direct ? x_stride : k,
                           weight,
                           stride_n,
                           stride_k,
                           scale,
                           bias,
                           static_cast<char*>(out) + first * n * element_size(dtype),
                           n,
                           rows,
                           0,
                           n,
                           k};
    const int prologue_team = threads_for(rows * k, team);
    if (scratch) {
#pragma omp parallel for num_threads(prologue_team) if (prologue_team > 1) schedule(static)
      for (Index r = 0; r < rows; ++r)
        apply(prologue, row_of(x, first + r, x_stride, dtype), scratch + r * k, k, dtype);
    }
    // Whole tiles of 16 columns per thread, always the same ones: the next call finds them in that core's cache.
    const Index tiles = (n + 15) / 16;
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
    for (int part = 0; part < team; ++part) {
      GemvCall mine = call;
      mine.n0 = tiles * part / team * 16;
      mine.n1 = part + 1 == team ? n : tiles * (part + 1) / team * 16;
      table().gemv[kind][dtype](mine);
    }
  }
  free(scratch);
  return DEEPSEEK_OK;
}

uint32_t word_at(uint64_t address, uint8_t width) {
  if (width == 4) return *reinterpret_cast<const uint32_t*>(address);
  if (width == 2) return *reinterpret_cast<const uint16_t*>(address);
  return *reinterpret_cast<const uint8_t*>(address);
}

}  // namespace

extern "C" {

int32_t deepseek_abi_version(void) { return DEEPSEEK_ABI_VERSION; }

const char* deepseek_isa(void) { return table().name; }

int32_t deepseek_set_isa(const char* name) {
  const Table* wanted = find_table(name);
  if (!wanted) return DEEPSEEK_BAD_ARGUMENT;
  active.store(wanted, std::memory_order_release);
  return DEEPSEEK_OK;
}

int32_t deepseek_layer_norm(const void* x, int64_t x_stride, const void* gamma, const void* beta, void* out,
                            int64_t m, int64_t k, double eps, int32_t dtype, int32_t num_threads) {
  if (m == 0 || k == 0) return DEEPSEEK_OK;
  if (!valid(x, out, m, k, dtype, num_threads)) return DEEPSEEK_BAD_ARGUMENT;
  const auto row = table().layer_norm[dtype];
  const int team = threads_for(m * k, num_threads);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (Index r = 0; r < m; ++r)
    row(row_of(x, r, x_stride, dtype), gamma, beta, static_cast<char*>(out) + r * k * element_size(dtype), k,
        static_cast<float>(eps));
  return DEEPSEEK_OK;
}

int32_t deepseek_bias_gelu(const void* x, int64_t x_stride, const void* bias_in, void* out, int64_t m, int64_t k,
                           int32_t gelu, int32_t dtype, int32_t num_threads) {
  if (m == 0 || k == 0) return DEEPSEEK_OK;
  if (!valid(x, out, m, k, dtype, num_threads)) return DEEPSEEK_BAD_ARGUMENT;
  const auto row = table().gelu[dtype];
  const int team = threads_for(m * k, num_threads);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (Index r = 0; r < m; ++r)
    row(row_of(x, r, x_stride, dtype), bias_in, static_cast<char*>(out) + r * k * element_size(dtype), k, gelu);
  return DEEPSEEK_OK;
}

int32_t deepseek_linear(const void* x, int64_t x_stride, const void* weight, int64_t weight_stride_n,
                        int64_t weight_stride_k, const void* bias, void* out, int64_t m, int64_t n, int64_t k,
                        int32_t dtype, int32_t num_threads) {
  return product({Prologue::kNone, nullptr, nullptr, 0.0f, 0}, x, x_stride, weight, deepseek::kWeightLikeX,
                 weight_stride_n, weight_stride_k, nullptr, bias, out, m, n, k, dtype, num_threads);
}

int32_t deepseek_int8_linear(const void* x, int64_t x_stride, const int8_t* weight_q, int64_t weight_stride_n,
                             int64_t weight_stride_k, const float* scale, const void* bias, void* out, int64_t m,
                             int64_t n, int64_t k, int32_t dtype, int32_t num_threads) {
  return product({Prologue::kNone, nullptr, nullptr, 0.0f, 0}, x, x_stride, weight_q, deepseek::kWeightInt8,
                 weight_stride_n, weight_stride_k, scale, bias, out, m, n, k, dtype, num_threads);
}

int32_t deepseek_narrow_linear(const float* x, int64_t x_stride, const void* weight, int32_t weight_dtype,
                               const float* bias, float* out, int64_t m, int64_t n, int64_t k,
                               int32_t num_threads) {
  if (weight_dtype != DEEPSEEK_BF16 && weight_dtype != DEEPSEEK_F16) return DEEPSEEK_BAD_ARGUMENT;
  const auto kind = weight_dtype == DEEPSEEK_BF16 ? deepseek::kWeightBf16 : deepseek::kWeightF16;
  return product({Prologue::kNone, nullptr, nullptr, 0.0f, 0}, x, x_stride, weight, kind, k, 1, nullptr, bias, out, m,
                 n, k, DEEPSEEK_F32, num_threads);
}

int32_t deepseek_block_linear(const float* x, int64_t x_stride, const uint8_t* codes, const float* scale,
                              const float* minimum, int32_t bits, const float* bias, float* out, int64_t m,
                              int64_t n, int64_t k, int32_t num_threads) {
  if (m == 0 || n == 0) return DEEPSEEK_OK;
  if (!valid(x, out, m, k, DEEPSEEK_F32, num_threads) || n < 0 || (bits != 4 && bits != 8) ||
      (k && (!codes || !scale || (bits == 4 && !minimum))))
    return DEEPSEEK_BAD_ARGUMENT;
  const int team = threads_for(m * n * k, num_threads);
  const deepseek::BlockCall call = {x, x_stride, codes, scale, minimum, bias, out, n, m, 0, n, k};
  const Index tiles = (n + 15) / 16;
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (int part = 0; part < team; ++part) {
    deepseek::BlockCall mine = call;
    mine.n0 = tiles * part / team * 16;
    mine.n1 = part + 1 == team ? n : tiles * (part + 1) / team * 16;
    table().block_gemv[bits == 8](mine);
  }
  return DEEPSEEK_OK;
}

int32_t deepseek_layer_norm_linear(const void* x, int64_t x_stride, const void* gamma, const void* beta,
                                   const void* weight, int64_t weight_stride_n, int64_t weight_stride_k,
                                   const void* bias, void* out, int64_t m, int64_t n, int64_t k, double eps,
                                   int32_t dtype, int32_t num_threads) {
  return product({Prologue::kLayerNorm, gamma, beta, static_cast<float>(eps), 0}, x, x_stride, weight,
                 deepseek::kWeightLikeX, weight_stride_n, weight_stride_k, nullptr, bias, out, m, n, k, dtype,
                 num_threads);
}

int32_t deepseek_gelu_linear(const void* x, int64_t x_stride, const void* bias_in, const void* weight,
                             int64_t weight_stride_n, int64_t weight_stride_k, const void* bias, void* out,
                             int64_t m, int64_t n, int64_t k, int32_t gelu, int32_t dtype, int32_t num_threads) {
  return product({Prologue::kGelu, bias_in, nullptr, 0.0f, gelu}, x, x_stride, weight, deepseek::kWeightLikeX,
                 weight_stride_n, weight_stride_k, nullptr, bias, out, m, n, k, dtype, num_threads);
}

int32_t deepseek_encode_groups(const float* x, float* error, int8_t* codes, float* scale, int64_t n,
                               int32_t num_threads) {
  if (n < 0 || num_threads < 1 || (n && (!x || !codes || !scale))) return DEEPSEEK_BAD_ARGUMENT;
  const Index groups = (n + deepseek::kGroup - 1) / deepseek::kGroup;
  const int team = threads_for(n, num_threads);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (Index group = 0; group < groups; ++group) {
    const Index first = group * deepseek::kGroup, left = n - first;
    table().encode_group(x + first, error ? error + first : nullptr, codes + first, scale + group,
                         left < deepseek::kGroup ? left : deepseek::kGroup);
  }
  return DEEPSEEK_OK;
}

int32_t deepseek_decode_groups(const int8_t* codes, const float* scale, float* out, int64_t n, int32_t adds,
                               int32_t num_threads) {
  if (n < 0 || num_threads < 1 || (n && (!codes || !scale || !out))) return DEEPSEEK_BAD_ARGUMENT;
  const Index groups = (n + deepseek::kGroup - 1) / deepseek::kGroup;
  const int team = threads_for(n, num_threads);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (Index group = 0; group < groups; ++group) {
    const Index first = group * deepseek::kGroup, left = n - first;
    table().decode_group(codes + first, scale[group], out + first, left < deepseek::kGroup ? left : deepseek::kGroup,
                         adds);
  }
  return DEEPSEEK_OK;
}

int32_t deepseek_first_changed(const uint64_t* addresses, const uint32_t* words, const uint8_t* widths, int32_t count) {
  uint32_t differs = 0;  // no branch in between: the reads, each of which misses every cache, overlap
  for (int32_t i = 0; i < count; ++i) differs |= word_at(addresses[i], widths[i]) ^ words[i];
  if (!differs) return -1;
  for (int32_t i = 0; i < count; ++i)
    if (word_at(addresses[i], widths[i]) != words[i]) return i;
  return -1;
}

}  // extern "C"
