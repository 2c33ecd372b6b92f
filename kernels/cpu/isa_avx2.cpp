#include "simd_avx2.hpp"

#include "isa_table.inl"

const deepseek::Table* deepseek::avx2_table() {
  static constexpr Table table = make_table("avx2");
  return &table;
}
