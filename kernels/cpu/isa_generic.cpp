#include "simd_generic.hpp"

#include "isa_table.inl"

const deepseek::Table* deepseek::generic_table() {
  static constexpr Table table = make_table("generic");
  return &table;
}
