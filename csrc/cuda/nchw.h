// Maps that are computed in NCHW, whatever format they have: copied from channels_last, and back.
#pragma once

#include "launch.h"

namespace afa {

// Copies a map of elements of 2, 4 or 8 bytes from channels_last, or back. In nchw.cu, once for all operations.
template <class Bits>
void copy_bits(const Launcher& launch, const Layout& layout, bool back, const Map<const Bits>& from,
               const Map<Bits>& to);

template <class T>
void copy_to(const Launcher& launch, const Layout& layout, bool back, const Map<const T>& from, const Map<T>& to) {
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  copy_bits<Bits>(launch, layout, back, {reinterpret_cast<const Bits*>(from.data), from.sn, from.sc, from.sp},
                  {reinterpret_cast<Bits*>(to.data), to.sn, to.sc, to.sp});
}

// A map that is computed, or read, in NCHW: in its place, or in memory of its own if it is channels_last.
template <class T>
class InNchw {
  using Element = std::remove_const_t<T>;
  Layout layout_;
  Map<T> given_;
  std::optional<Tensor> memory_;

 public:
  Map<T> map;

  InNchw(const Checker& check, const char* name, const Tensor& t, const Shape& shape)
      : layout_(t), given_(check.map<T>(name, t, shape, layout_.channels_last)), map(given_) {
    if (!layout_.channels_last) return;
    memory_ = scratch<Element>(t, layout_.batch * layout_.channels * layout_.pixels);
    map = {data_of<Element>(memory_), layout_.channels * layout_.pixels, layout_.pixels, 1};
  }

  void copy_in(const Launcher& launch) const {
    const Map<Element> to{const_cast<Element*>(map.data), map.sn, map.sc, map.sp};
    if (memory_) copy_to<Element>(launch, layout_, false, {given_.data, given_.sn, given_.sc, given_.sp}, to);
  }
  void copy_out(const Launcher& launch) const {
    if (memory_) copy_to<Element>(launch, layout_, true, {map.data, map.sn, map.sc, map.sp}, given_);
  }
};

// Calls body(Element{}) with the element type of a result of predictions of type T: theirs, or under autocast that of
// the arithmetic.
template <class T, class F>
void dispatch_result(const Checker& check, const char* name, const Tensor& t, const F& body) {
  using Acc = acc_t<T>;
  if (t.scalar_type() == torch::headeronly::CppTypeToScalarType<T>::value) return body(T{});
  check.type(name, t, torch::headeronly::CppTypeToScalarType<Acc>::value);
  if constexpr (!std::is_same_v<T, Acc>) body(Acc{});
}

}  // namespace afa
