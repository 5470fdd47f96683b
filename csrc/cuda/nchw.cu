// The copies of nchw.h: the launcher of nchw.cuh.
#include "nchw.cuh"
#include "nchw.h"

namespace afa {

template <class Bits>
void copy_bits(const Launcher& launch, const Layout& layout, bool back, const Map<const Bits>& from,
               const Map<Bits>& to) {
  const int64_t tiles = ceil_div(layout.channels, TILE_CHANNELS) * ceil_div(layout.pixels, TILE_PIXELS);
  if (layout.batch * tiles > 0)
    launch(back ? copy_map<Bits, true> : copy_map<Bits, false>, layout.batch * tiles, layout.channels, layout.pixels,
           from, to);
}

template void copy_bits(const Launcher&, const Layout&, bool, const Map<const uint16_t>&, const Map<uint16_t>&);
template void copy_bits(const Launcher&, const Layout&, bool, const Map<const uint32_t>&, const Map<uint32_t>&);
template void copy_bits(const Launcher&, const Layout&, bool, const Map<const uint64_t>&, const Map<uint64_t>&);

}  // namespace afa
