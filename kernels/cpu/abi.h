/* C interface of the CPU kernels: pointers, sizes, strides and dtype codes; no torch headers, no exceptions.
 *
 * Rows of x are `x_stride` elements apart and contiguous inside; `out` is contiguous. A weight has logical shape [n, k]
 * and one of its two strides is 1, so both nn.Linear ([n, k]) and GPT-2's Conv1D ([k, n]) layouts are read in place.
 * Optional pointers may be NULL. Sums run in float32 whatever the dtype. Where
 * nothing else is said a function returns a Status. */
#ifndef DEEPSEEK_KERNELS_ABI_H
#define DEEPSEEK_KERNELS_ABI_H

#include <stdint.h>

#define DEEPSEEK_ABI_VERSION 4

#if defined(_WIN32)
#define DEEPSEEK_API __declspec(dllexport)
#else
#define DEEPSEEK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum DeepseekDtype { DEEPSEEK_F32 = 0, DEEPSEEK_BF16 = 1, DEEPSEEK_F16 = 2 };
enum DeepseekStatus { DEEPSEEK_OK = 0, DEEPSEEK_BAD_ARGUMENT = 1, DEEPSEEK_NO_MEMORY = 2 };
enum DeepseekGelu { DEEPSEEK_GELU_ERF = 0, DEEPSEEK_GELU_TANH = 1 };

DEEPSEEK_API int32_t deepseek_abi_version(void);

/* Name of the instruction set in use: "avx512", "avx2" or "generic". */
DEEPSEEK_API const char *deepseek_isa(void);

/* Use another instruction set, process-wide; DEEPSEEK_BAD_ARGUMENT when this processor or build lacks it. */
DEEPSEEK_API int32_t deepseek_set_isa(const char *name);

/* out[m, k] = (x - mean(x)) / sqrt(var(x) + eps) * gamma + beta, statistics over each row. */
DEEPSEEK_API int32_t deepseek_layer_norm(const void *x, int64_t x_stride, const void *gamma, const void *beta,
                                         void *out, int64_t m, int64_t k, double eps, int32_t dtype,
                                         int32_t num_threads);

/* out[m, k] = gelu(x + bias_in). */
DEEPSEEK_API int32_t deepseek_bias_gelu(const void *x, int64_t x_stride, const void *bias_in, void *out, int64_t m,
                                        int64_t k, int32_t gelu, int32_t dtype, int32_t num_threads);

/* out[m, n] = x @ weight.T + bias. */
DEEPSEEK_API int32_t deepseek_linear(const void *x, int64_t x_stride, const void *weight, int64_t weight_stride_n,
                                     int64_t weight_stride_k, const void *bias, void *out, int64_t m, int64_t n,
                                     int64_t k, int32_t dtype, int32_t num_threads);

/* out[m, n] = (x @ weight_q.T) * scale + bias, weight_q int8, scale float32. */
DEEPSEEK_API int32_t deepseek_int8_linear(const void *x, int64_t x_stride, const int8_t *weight_q,
                                          int64_t weight_stride_n, int64_t weight_stride_k, const float *scale,
                                          const void *bias, void *out, int64_t m, int64_t n, int64_t k,
                                          int32_t dtype, int32_t num_threads);

/* out[m, n] = x @ weight.T + bias in float32, weight [n, k] contiguous and of weight_dtype. */
DEEPSEEK_API int32_t deepseek_narrow_linear(const float *x, int64_t x_stride, const void *weight,
                                            int32_t weight_dtype, const float *bias, float *out, int64_t m,
                                            int64_t n, int64_t k, int32_t num_threads);

/* The same with a weight of blocks of 32 along k, element = code * scale + minimum (see table.hpp); the last block of a
 * row may reach past k. `bits` is 4 or 8; with 8, codes are int8 and minimum is not read. */
DEEPSEEK_API int32_t deepseek_block_linear(const float *x, int64_t x_stride, const uint8_t *codes,
                                           const float *scale, const float *minimum, int32_t bits,
                                           const float *bias, float *out, int64_t m, int64_t n, int64_t k,
                                           int32_t num_threads);

/* out[m, n] = layer_norm(x) @ weight.T + bias. */
DEEPSEEK_API int32_t deepseek_layer_norm_linear(const void *x, int64_t x_stride, const void *gamma,
                                                const void *beta, const void *weight, int64_t weight_stride_n,
                                                int64_t weight_stride_k, const void *bias, void *out, int64_t m,
                                                int64_t n, int64_t k, double eps, int32_t dtype,
                                                int32_t num_threads);

/* out[m, n] = gelu(x + bias_in) @ weight.T + bias. */
DEEPSEEK_API int32_t deepseek_gelu_linear(const void *x, int64_t x_stride, const void *bias_in, const void *weight,
                                          int64_t weight_stride_n, int64_t weight_stride_k, const void *bias,
                                          void *out, int64_t m, int64_t n, int64_t k, int32_t gelu, int32_t dtype,
                                          int32_t num_threads);

/* codes[i] * scale[i / 256] is nearest to x[i] + error[i] among 255 equal steps of each group of 256 values; error then
 * holds what is missing. A group with an infinite or NaN value becomes that. error may be NULL. */
DEEPSEEK_API int32_t deepseek_encode_groups(const float *x, float *error, int8_t *codes, float *scale, int64_t n,
                                            int32_t num_threads);

/* out[i] = codes[i] * scale[i / 256], or that added to out[i]. */
DEEPSEEK_API int32_t deepseek_decode_groups(const int8_t *codes, const float *scale, float *out, int64_t n,
                                            int32_t adds, int32_t num_threads);

/* Index of the first address that does not hold its word any more, or -1. A word is 4, 2 or 1 bytes wide and aligned. */
DEEPSEEK_API int32_t deepseek_first_changed(const uint64_t *addresses, const uint32_t *words, const uint8_t *widths,
                                            int32_t count);

#ifdef __cplusplus
}
#endif
#endif
