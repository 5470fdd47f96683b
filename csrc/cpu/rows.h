// Rows of a map in the arithmetic type, whatever the map's own.
#pragma once

#include "../common.h"
#include "convert.h"
#include "stream.h"

namespace afa {

// A small map read and written in the arithmetic type whatever its own: logits, and their gradients.
class AnyMap {
 public:
  AnyMap(const Checker& check, const char* name, const Tensor& t, const Shape& shape)
      : dtype_(t.scalar_type()), map_(check.view<char>(name, t, shape)) {
    dispatch(dtype_, check.op, [](auto) {});  // an unsupported type is found here, not in a thread
  }

  // values[i] = element (n, c, p) with i counted along pixels (`read_pixels`) or along channels (`read_channels`).
  template <class Acc>
  void read_pixels(int64_t n, int64_t c, int64_t p, int64_t count, Acc* values) const {
    read(n * map_.sn + c * map_.sc + p * map_.sp, map_.sp, count, values);
  }
  template <class Acc>
  void read_channels(int64_t n, int64_t c, int64_t count, Acc* values) const {
    read(n * map_.sn + c * map_.sc, map_.sc, count, values);
  }
  template <class Acc>
  void write_pixels(int64_t n, int64_t c, int64_t p, int64_t count, const Acc* values) const {
    write(n * map_.sn + c * map_.sc + p * map_.sp, map_.sp, count, values);
  }
  template <class Acc>
  void write_channels(int64_t n, int64_t c, int64_t count, const Acc* values) const {
    write(n * map_.sn + c * map_.sc, map_.sc, count, values);
  }

 private:
  // Not inlined: a copy for each element type in every loop that reads would double the library.
  template <class Acc>
  [[gnu::noinline]] void read(int64_t offset, int64_t stride, int64_t count, Acc* values) const {
    dispatch(dtype_, "read", [&](auto t) {
      const auto* data = reinterpret_cast<const decltype(t)*>(map_.data) + offset;
      if (stride == 1) return widen(data, count, values);
      for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Acc>(data[i * stride]);
    });
  }
  template <class Acc>
  [[gnu::noinline]] void write(int64_t offset, int64_t stride, int64_t count, const Acc* values) const {
    dispatch(dtype_, "write", [&](auto t) {
      auto* data = reinterpret_cast<decltype(t)*>(map_.data) + offset;
      if (stride == 1) return narrow(values, count, data);
      for (int64_t i = 0; i < count; ++i) data[i * stride] = static_cast<decltype(t)>(values[i]);
    });
  }

  ScalarType dtype_;
  Map<char> map_;
};

inline std::optional<AnyMap> optional_map(const Checker& check, const char* name, const std::optional<Tensor>& t,
                                          const Shape& shape) {
  return t ? std::optional<AnyMap>(AnyMap(check, name, *t, shape)) : std::nullopt;
}

// A row in the arithmetic type: as it is, or widened into `buffer`.
template <class T, class Acc>
inline const Acc* widened(const T* row, int64_t count, Acc* buffer) {
  if constexpr (std::is_same_v<T, Acc>) {
    return row;
  } else {
    widen(row, count, buffer);
    return buffer;
  }
}

// Stores past the cache, but what shares a line with another row.
template <class T, class Acc>
void stream_row(const Acc* values, int64_t count, T* row) {
  constexpr int64_t of_line = LINE / sizeof(T), block = 4 * of_line;
  const int64_t head = std::min(count, before_line(row));
  narrow(values, head, row);
  const int64_t last = head + (count - head) / of_line * of_line;
  if constexpr (std::is_same_v<T, Acc>) {
    stream(reinterpret_cast<char*>(row + head), reinterpret_cast<const char*>(values + head), (last - head) / of_line);
  } else {
    alignas(LINE) T narrowed[block];
    for (int64_t first = head; first < last; first += block) {
      const int64_t size = std::min(block, last - first);
      narrow(values + first, size, narrowed);
      stream(reinterpret_cast<char*>(row + first), reinterpret_cast<const char*>(narrowed), size / of_line);
    }
  }
  narrow(values + last, count - last, row + last);
}

// Where the values of `row` are computed before `store`: in place, or in `buffer` if the row is narrow, null or
// streamed.
template <class T, class Acc>
inline Acc* computed_in(T* row, Acc* buffer, bool streamed) {
  if constexpr (std::is_same_v<T, Acc>) {
    return row && !streamed ? row : buffer;
  } else {
    return buffer;
  }
}

template <class T, class Acc>
inline void store(const Acc* values, int64_t count, T* row, bool streamed) {
  if (!row) return;
  if (streamed) return stream_row(values, count, row);
  if constexpr (!std::is_same_v<T, Acc>) narrow(values, count, row);
}

// row[i] = value(i), in the cache or past it; a few lines at a time, if they are narrow or streamed.
template <class Acc, class T, class F>
inline void fill_row(T* __restrict row, int64_t count, bool streamed, const F& value) {
  if constexpr (std::is_same_v<T, Acc>) {
    if (!streamed) {
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) row[i] = value(i);
      return;
    }
  }
  constexpr int64_t block = 256;
  Acc values[block];
  // The first block ends where a line does, and so do all others but the last.
  int64_t size = block - reinterpret_cast<uintptr_t>(row) % LINE / sizeof(T);
  for (int64_t first = 0; first < count; first += size, size = block) {
    size = std::min(size, count - first);
    for (int64_t i = 0; i < size; ++i) values[i] = value(first + i);
    if (streamed)
      stream_row(values, size, row + first);
    else
      narrow(values, size, row + first);
  }
}

template <class Acc>
void add_weighted(Acc weight, int64_t length, const Acc* values, Acc* __restrict sum) {
  for (int64_t i = 0; i < length; ++i) sum[i] += weight * values[i];
}

constexpr int64_t UNROLL = 4;  // pixels of channels_last whose sum is added to a channel's at once

// The channels of up to UNROLL neighbouring pixels, widened; `buffer` has room for them.
template <class Acc, int count>
struct Pixels {
  const Acc* rows[count];

  template <class T>
  Pixels(const Map<const T>& map, int64_t n, int64_t p, int64_t channels, Acc* buffer) {
    for (int64_t k = 0; k < count; ++k) rows[k] = widened(map.at(n, 0, p + k), channels, buffer + k * channels);
  }

  // term(value, pixel) of all the pixels at channel c, summed in pairs.
  template <class F>
  auto sum(int64_t c, const F& term) const {
    if constexpr (count == 1)
      return term(rows[0][c], 0);
    else
      return (term(rows[0][c], 0) + term(rows[1][c], 1)) + (term(rows[2][c], 2) + term(rows[3][c], 3));
  }

  Acc sum(int64_t c) const {
    return sum(c, [](Acc value, int64_t) { return value; });
  }

  // body(value, pixel) of each pixel at channel c, in order.
  template <class F>
  void each(int64_t c, const F& body) const {
    for (int64_t k = 0; k < count; ++k) body(rows[k][c], k);
  }
};

// Calls body(pixels, first) for the `count` pixels from p on, UNROLL at a time and then one by one.
template <class Acc, class T, class F>
void for_each_pixels(const Map<const T>& map, int64_t n, int64_t p, int64_t count, int64_t channels, Acc* buffer,
                     const F& body) {
  int64_t i = 0;
  for (; i + UNROLL <= count; i += UNROLL) body(Pixels<Acc, UNROLL>(map, n, p + i, channels, buffer), i);
  for (; i < count; ++i) body(Pixels<Acc, 1>(map, n, p + i, channels, buffer), i);
}

}  // namespace afa
