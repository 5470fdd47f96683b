// Walks a feature map in pieces, in parallel. Pieces do not depend on the number of threads, hence neither does any
// sum.
#pragma once

#include "isa.h"
#include "memory.h"
#include "stream.h"

namespace afa {

// Elements [first, first + count) of a row of image n; `unit` counts the pieces of all rows of all images.
struct Piece {
  int64_t unit, n, row, first, count;
};

// Calls body(piece, scratch) for pieces of at most `size` elements, vectorized; `scratch` has room for that many
// values, begins with a line of the cache and is the thread's own. No thread gets fewer than `grain` pieces.
template <class Acc, class F>
void for_each_piece(int64_t batch, int64_t rows, int64_t length, int64_t size, int64_t grain, int64_t scratch,
                    const F& body) {
  if (batch * rows * length == 0) return;
  const int64_t pieces = ceil_div(length, size);
  torch::stable::parallel_for(0, batch * rows * pieces, grain, [&](int64_t begin, int64_t end) {
    const auto buffer = uninitialized<Acc>(scratch + LINE / sizeof(Acc));
    Acc* aligned = buffer.get() + before_line(buffer.get());
    vectorized([&] {
      Piece piece{begin, begin / pieces / rows, begin / pieces % rows, begin % pieces * size, 0};
      for (; piece.unit < end; ++piece.unit) {
        piece.count = std::min(size, length - piece.first);
        body(piece, aligned);
        piece.first += size;
        if (piece.first < length) continue;
        piece.first = 0;
        if (++piece.row < rows) continue;
        piece.row = 0;
        ++piece.n;
      }
    });
    end_streams();
  });
}

// Elements that are worth another thread: of fewer, waking it takes longer. As many as for PyTorch's own operators.
constexpr int64_t WORTH_A_THREAD = 1 << 15;

// The rows of a feature map in the order of memory: a page of a fresh output is written while it is in the cache.
template <class Acc, class F>
void for_each_row(const Layout& layout, int64_t size, int64_t scratch, const F& body) {
  const int64_t longest = std::min(size, std::max<int64_t>(1, layout.length()));
  const int64_t grain = ceil_div(WORTH_A_THREAD, longest);
  for_each_piece<Acc>(layout.batch, layout.rows(), layout.length(), size, grain, scratch, body);
}

// How many rows of at most `size` elements are worked on together: two, or as many as have so many elements in all.
inline int64_t rows_together(int64_t length, int64_t size) {
  return std::max<int64_t>(2, size / std::max<int64_t>(1, length));
}

// The same, some rows at a time: body(piece, rows, scratch), where a piece is of that many rows from piece.row on.
template <class Acc, class F>
void for_each_rows(const Layout& layout, int64_t size, int64_t scratch, const F& body) {
  const int64_t longest = std::min(size, std::max<int64_t>(1, layout.length()));
  const int64_t rows = layout.rows(), together = rows_together(layout.length(), size);
  const int64_t grain = ceil_div(WORTH_A_THREAD, together * longest);
  for_each_piece<Acc>(layout.batch, ceil_div(rows, together), layout.length(), size, grain, scratch,
                      [&](Piece piece, Acc* buffer) {
                        piece.row *= together;
                        body(piece, std::min(together, rows - piece.row), buffer);
                      });
}

// Tiles of pixels, each with all its channels: sums over the channels stay in the cache.
template <class Acc, class F>
void for_each_tile(int64_t batch, int64_t pixels, int64_t size, int64_t scratch, const F& body) {
  for_each_piece<Acc>(batch, 1, pixels, size, 1, scratch, body);
}

}  // namespace afa
