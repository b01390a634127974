// The inner loop of nearest_code on a CPU. No Python and no torch in here: cpu.py loads the library with ctypes.
//
// Vectors are the lanes. x is packed, a block at a time, into panels of 2 x LANES vectors, [D][2 x LANES]; a tile holds
// the scores of ROWS codes by one panel in registers, and codes are read in place, one number broadcast to all lanes.
// Each lane keeps its own best score and index, so nothing is reduced across lanes and no score is written to memory.
//
// Every score is the same sum in the same order, bias + x_0 c_0 + x_1 c_1 + ..., wherever the code and the vector stand
// in a tile: equal codes have equal scores to the bit, and a strict comparison that walks the codes upwards keeps the
// lowest index. -ffp-contract=fast (see pyproject.toml) makes each step one fused multiply-add where the CPU has it.

#include <cstdint>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE inline __attribute__((always_inline))  // into the functions at the end, which name their instructions

// What cpu.py passes. Strides count numbers. Change ABI, here and there, with it.
constexpr int32_t ABI = 2;
struct Prepare {
  const float *code;  // (k, width), contiguous
  int64_t k, width;
  float *centred;     // (k, width): out, every code less the shift
  float *bias;        // (k,): out, minus half its square
  float *shift;       // (width,): out, the mean, rounded as prepare.py's `centre` says
  float *columns;     // scratch: 2 x width numbers
};
struct Search {
  const float *x;                      // n vectors of `width`, any strides
  int64_t n, stride_n, stride_d;
  const float *shift;                  // subtracted from every vector; null: nothing is
  const float *code, *bias;            // (k, width) and (k,), contiguous
  int64_t k, width;
  float *panels;                       // scratch: block x width numbers
  int64_t block;                       // vectors packed at a time: a multiple of 32, at most BLOCK
  int32_t *index;                      // (n,): out
  float *margin;                       // (n,): out, best score less second best; null: not wanted
  int32_t normalise;                   // 1: divide every vector by its length
};

namespace {

constexpr int64_t BLOCK = 1024;
constexpr int64_t CODE_NUMBERS = 65536;  // codes that stay in the L2 cache while a block's panels pass: 256 KiB
constexpr float INF = __builtin_inff();

template <int LANES> struct Lanes {
  typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
  typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
};

// What has been found for each vector of a block.
struct Found {
  float best[BLOCK], second[BLOCK];
  int32_t index[BLOCK];
};

// Scores codes first..last-1 against a panel of W x LANES vectors, and updates what was found for them.
// The last ROWS codes are moved back so that they end at `last`: a score met twice cannot win twice.
template <int LANES, int ROWS, int W, bool MARGIN>
INLINE void tile(const Search &s, const float *panel, int64_t first, int64_t last, Found &found, int64_t at) {
  typedef typename Lanes<LANES>::floats floats;
  typedef typename Lanes<LANES>::ints ints;
  constexpr int SPAN = 3, POINTERS = (ROWS + SPAN - 1) / SPAN;  // a pointer for each row would not fit the registers
  floats best[W], second[W];
  ints index[W];
  for (int w = 0; w < W; w++) {
    best[w] = *(const floats *)(found.best + at + w * LANES);
    index[w] = *(const ints *)(found.index + at + w * LANES);
    if (MARGIN) second[w] = *(const floats *)(found.second + at + w * LANES);
  }
  const int64_t width = s.width;
  const float *const end = panel + width * W * LANES;
  for (int64_t next = first; next < last; next += ROWS) {
    const int64_t k = next <= last - ROWS ? next : last - ROWS;
    const float *code[POINTERS];
    UNROLL for (int i = 0; i < POINTERS; i++) code[i] = s.code + (k + SPAN * i) * width;
    floats score[ROWS][W];
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int w = 0; w < W; w++) score[r][w] = floats{} + s.bias[k + r];
    for (const float *xs = panel; xs < end; xs += W * LANES) {
      floats x[W];
      UNROLL for (int w = 0; w < W; w++) x[w] = *(const floats *)(xs + w * LANES);
      UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int w = 0; w < W; w++) score[r][w] += x[w] * code[r / SPAN][r % SPAN * width];
      UNROLL for (int i = 0; i < POINTERS; i++) code[i]++;
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
      if (MARGIN && k + r < next) continue;  // it would be its own second best
      UNROLL for (int w = 0; w < W; w++) {
        const floats value = score[r][w];
        const ints better = value > best[w];  // never true of a NaN
        if (MARGIN) {
          const floats runner_up = value > second[w] ? value : second[w];
          second[w] = better ? best[w] : runner_up;
        }
        best[w] = better ? value : best[w];
        index[w] = better ? ints{} + (int32_t)(k + r) : index[w];
      }
    }
  }
  for (int w = 0; w < W; w++) {
    *(floats *)(found.best + at + w * LANES) = best[w];
    *(ints *)(found.index + at + w * LANES) = index[w];
    if (MARGIN) *(floats *)(found.second + at + w * LANES) = second[w];
  }
}

// Divides the vectors of a panel by their lengths; by the largest entry first, so that no square overflows or vanishes.
template <int LANES> INLINE void normalise(float *panel, int64_t width, int64_t lanes) {
  typedef typename Lanes<LANES>::floats floats;
  for (int64_t lane = 0; lane < lanes; lane += LANES) {
    floats largest{}, squares{};
    for (int64_t d = 0; d < width; d++) {
      const floats x = *(const floats *)(panel + d * lanes + lane), size = x < 0 ? -x : x;
      largest = size > largest ? size : largest;
    }
    largest = largest > 0 ? largest : floats{} + 1;
    for (int64_t d = 0; d < width; d++) {
      floats &x = *(floats *)(panel + d * lanes + lane);
      x /= largest;
      squares += x * x;
    }
    floats length{};
    for (int i = 0; i < LANES; i++) length[i] = squares[i] > 0 ? __builtin_sqrtf(squares[i]) : 1;
    for (int64_t d = 0; d < width; d++) *(floats *)(panel + d * lanes + lane) /= length;
  }
}

// Writes vectors first..first+rows-1 to a panel [D][lanes], less the shift; lanes without a vector are 0.
template <int LANES> INLINE void pack(const Search &s, int64_t first, int64_t rows, int64_t lanes, float *panel) {
  constexpr int64_t STEP = 16;  // numbers of a vector at a time: what is written to stays in the L1 cache
  for (int64_t begin = 0; begin < s.width; begin += STEP) {
    const int64_t end = begin + STEP < s.width ? begin + STEP : s.width;
    for (int64_t lane = 0; lane < lanes; lane++) {
      const float *x = s.x + (first + lane) * s.stride_n;
      if (lane >= rows)
        for (int64_t d = begin; d < end; d++) panel[d * lanes + lane] = 0;
      else if (s.shift)
        for (int64_t d = begin; d < end; d++) panel[d * lanes + lane] = x[d * s.stride_d] - s.shift[d];
      else
        for (int64_t d = begin; d < end; d++) panel[d * lanes + lane] = x[d * s.stride_d];
    }
  }
  if (s.normalise) normalise<LANES>(panel, s.width, lanes);
}

template <int LANES, int ROWS, bool MARGIN> INLINE void search_block(const Search &s, int64_t rows, Found &found) {
  const int64_t fit = CODE_NUMBERS / s.width / ROWS * ROWS, step = fit > ROWS ? fit : ROWS;
  for (int64_t first = 0; first < s.k; first += step) {
    const int64_t last = first + step < s.k ? first + step : s.k;
    for (int64_t at = 0; at < rows; at += 2 * LANES) {
      const float *panel = s.panels + at * s.width;
      if (rows - at > LANES)
        tile<LANES, ROWS, 2, MARGIN>(s, panel, first, last, found, at);
      else
        tile<LANES, ROWS, 1, MARGIN>(s, panel, first, last, found, at);
    }
  }
}

template <int LANES, int ROWS> INLINE void search(const Search &s) {
  Found found;
  for (int64_t start = 0; start < s.n; start += s.block) {
    const int64_t rows = s.n - start < s.block ? s.n - start : s.block;
    for (int64_t at = 0; at < rows; at += 2 * LANES) {
      const int64_t left = rows - at;
      pack<LANES>(s, start + at, left, left > LANES ? 2 * LANES : LANES, s.panels + at * s.width);
    }
    for (int64_t i = 0; i < s.block; i++) {
      found.best[i] = found.second[i] = -INF;
      found.index[i] = 0;
    }
    if (s.k < ROWS)
      s.margin ? search_block<LANES, 1, true>(s, rows, found) : search_block<LANES, 1, false>(s, rows, found);
    else
      s.margin ? search_block<LANES, ROWS, true>(s, rows, found) : search_block<LANES, ROWS, false>(s, rows, found);
    for (int64_t i = 0; i < rows; i++) {
      const float best = found.best[i], second = found.second[i];
      const bool finite = best - best == 0;  // else the vector is not, or its products overflow
      s.index[start + i] = finite ? found.index[i] : 0;
      if (s.margin) s.margin[start + i] = finite && second > -INF ? best - second : INF;
    }
  }
}

// The sum, least and largest of every column; false if a number is not finite (or their sum overflows).
template <int LANES> INLINE bool survey(const Prepare &p, float *least, float *largest) {
  typedef typename Lanes<LANES>::floats floats;
  const int64_t whole = p.width / LANES * LANES;
  for (int64_t d = 0; d < p.width; d++) p.shift[d] = 0, least[d] = INF, largest[d] = -INF;
  for (int64_t k = 0; k < p.k; k++) {
    const float *code = p.code + k * p.width;
    for (int64_t d = 0; d < whole; d += LANES) {
      const floats x = *(const floats *)(code + d);
      floats &sum = *(floats *)(p.shift + d), &low = *(floats *)(least + d), &high = *(floats *)(largest + d);
      sum += x;
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
    for (int64_t d = whole; d < p.width; d++) {
      p.shift[d] += code[d];
      least[d] = code[d] < least[d] ? code[d] : least[d];
      largest[d] = code[d] > largest[d] ? code[d] : largest[d];
    }
  }
  float sum = 0;
  for (int64_t d = 0; d < p.width; d++) sum += p.shift[d];
  return sum - sum == 0;
}

template <int LANES> INLINE bool prepare(const Prepare &p) {
  typedef typename Lanes<LANES>::floats floats;
  float *least = p.columns, *largest = p.columns + p.width;
  if (!survey<LANES>(p, least, largest)) return false;
  float range = 0;
  for (int64_t d = 0; d < p.width; d++) range = largest[d] - least[d] > range ? largest[d] - least[d] : range;
  int exponent;
  __builtin_frexpf(range, &exponent);
  const float step = __builtin_ldexpf(1, exponent - 1);
  for (int64_t d = 0; d < p.width; d++) p.shift[d] = __builtin_rintf(p.shift[d] / p.k / step) * step;
  const int64_t whole = p.width / LANES * LANES;
  for (int64_t k = 0; k < p.k; k++) {
    const float *code = p.code + k * p.width;
    float *centred = p.centred + k * p.width, square = 0;
    floats squares{};
    for (int64_t d = 0; d < whole; d += LANES) {
      const floats x = *(const floats *)(code + d) - *(const floats *)(p.shift + d);
      *(floats *)(centred + d) = x;
      squares += x * x;
    }
    for (int64_t d = whole; d < p.width; d++) {
      centred[d] = code[d] - p.shift[d];
      square += centred[d] * centred[d];
    }
    for (int i = 0; i < LANES; i++) square += squares[i];
    p.bias[k] = -square / 2;
  }
  return true;
}

// Lanes by rows, so that 2 x ROWS sums, 2 vectors and a code fit the registers: 32 of AVX-512 and NEON, 16 elsewhere.
#if defined(__x86_64__) || defined(__i386__)
__attribute__((target("avx512f,fma"))) void search_avx512(const Search &s) { search<16, 12>(s); }
__attribute__((target("avx2,fma"))) void search_avx2(const Search &s) { search<8, 6>(s); }
__attribute__((target("avx512f,fma"))) bool prepare_avx512(const Prepare &p) { return prepare<16>(p); }
__attribute__((target("avx2,fma"))) bool prepare_avx2(const Prepare &p) { return prepare<8>(p); }
bool has_avx512() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
constexpr int GENERIC_ROWS = 6;
#else
constexpr int GENERIC_ROWS = 12;
#endif
void search_generic(const Search &s) { search<4, GENERIC_ROWS>(s); }
bool prepare_generic(const Prepare &p) { return prepare<4>(p); }
bool always() { return true; }

struct Variant {
  const char *name;
  bool (*supported)();
  void (*search)(const Search &);
  bool (*prepare)(const Prepare &);
};
constexpr Variant VARIANTS[] = {  // the fastest first
#if defined(__x86_64__) || defined(__i386__)
    {"avx512", has_avx512, search_avx512, prepare_avx512},
    {"avx2", has_avx2, search_avx2, prepare_avx2},
#endif
    {"generic", always, search_generic, prepare_generic},
};
constexpr int COUNT = sizeof(VARIANTS) / sizeof(VARIANTS[0]);

}  // namespace

extern "C" {

int32_t nearest_code_abi() { return ABI; }

// The name of a variant; "" if this CPU lacks its instructions; null past the last.
const char *nearest_code_variant(int32_t variant) {
  if (variant >= COUNT) return nullptr;
  return VARIANTS[variant].supported() ? VARIANTS[variant].name : "";
}

// 0 where a code is not finite: then nothing that was written means anything.
int32_t nearest_code_prepare(int32_t variant, const Prepare *p) { return VARIANTS[variant].prepare(*p); }

void nearest_code_search(int32_t variant, const Search *s) { VARIANTS[variant].search(*s); }
}
