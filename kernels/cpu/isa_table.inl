// Included by each isa_*.cpp after its simd_*.hpp: the table of that instruction set.
#include "rows.hpp"
#include "gemv.hpp"
#include "blocks.hpp"
#include "exchange.hpp"

namespace {

constexpr deepseek::Table make_table(const char* name) {
  return {name,
          {layer_norm_row<float, float>, layer_norm_row<bf16, bf16>, layer_norm_row<f16, f16>},
          {layer_norm_row<float, float>, layer_norm_row<bf16, float>, layer_norm_row<f16, float>},
          {gelu_row<float, float>, gelu_row<bf16, bf16>, gelu_row<f16, f16>},
          {gelu_row<float, float>, gelu_row<bf16, float>, gelu_row<f16, float>},
          {to_float_row<float>, to_float_row<bf16>, to_float_row<f16>},
          {{gemv<float, float>, gemv<bf16, bf16>, gemv<f16, f16>},
           {gemv<int8_t, float>, gemv<int8_t, bf16>, gemv<int8_t, f16>},
           {gemv<bf16, float>, gemv<bf16, bf16>, gemv<bf16, f16>},
           {gemv<f16, float>, gemv<f16, bf16>, gemv<f16, f16>}},
          {block_gemv<4>, block_gemv<8>},
          encode_group,
          decode_group};
}

}  // namespace
