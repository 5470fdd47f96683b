// The element types of labels.
#pragma once

#include "../common.h"

namespace afa {

// Calls body(L{}) with the element type of `dtype`.
template <class F>
void dispatch_labels(ScalarType dtype, const char* op, const F& body) {
  switch (dtype) {
    case ScalarType::Byte: return body(uint8_t{});
    case ScalarType::Int: return body(int32_t{});
    case ScalarType::Long: return body(int64_t{});
    default: STD_TORCH_CHECK(false, op, ": unsupported dtype ", static_cast<int>(dtype));
  }
}

}  // namespace afa
