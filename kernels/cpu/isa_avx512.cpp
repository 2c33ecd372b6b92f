#include "simd_avx512.hpp"

#include "isa_table.inl"

const deepseek::Table* deepseek::avx512_table() {
  static constexpr Table table = make_table("avx512");
  return &table;
}
