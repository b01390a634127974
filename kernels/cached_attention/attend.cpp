// Attention of one query a sequence and head to the keys and values before it. No Python and no torch in here: cpu.py
// loads the library with ctypes.
//
// Channels are the lanes. Keys and values are read once, in the order they lie in; the scores of one head, a few hundred
// numbers, are all that is kept. Which loop cpu.py takes depends on the channels of a head alone, so a sequence's result
// does not depend on those beside it.

#include <cstdint>

#define INLINE inline __attribute__((always_inline))  // into the functions at the end, which name their instructions

// What cpu.py passes. Strides count numbers. Change ABI, here and there, with it.
constexpr int32_t ABI = 1;
struct Attend {
  const float *query;                                // (batch, heads, size), heads and sizes contiguous
  int64_t stride;                                    // from a sequence's queries to the next one's
  const float *cache;                                // (batch, 2, heads, length, size), contiguous: keys, values
  int64_t batch, heads, length, size, filled;        // filled: how many keys there are, from 1 to length
  float scale;                                       // of scores
  float *scores;                                     // scratch: `filled` numbers, rounded up to a multiple of 16
  float *out;                                        // (batch, heads, size)
};

namespace {

constexpr int PARTS = 4;  // vectors of a head that are summed side by side

template <int LANES> struct Lanes {
  typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
  typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
};

template <int LANES> INLINE const typename Lanes<LANES>::floats &at(const float *x) {
  return *reinterpret_cast<const typename Lanes<LANES>::floats *>(x);
}

template <int LANES> INLINE float total(const typename Lanes<LANES>::floats &x) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += x[i];
  return sum;
}

// x := e^x for x <= 0, to 2 units in the last place; 0 below -87. 2^n times a polynomial over half a unit of n: the
// coefficients are those of the Cephes library's expf (Moshier 1992).
template <int LANES> INLINE void exponentiate(typename Lanes<LANES>::floats &x) {
  typedef typename Lanes<LANES>::floats floats;
  typedef typename Lanes<LANES>::ints ints;
  const floats zero = {}, least = zero - 87.0f, middle = zero + 12582912.0f;  // 1.5 x 2^23: adding it rounds
  const ints far = x < least;  // false of a NaN, which so stays one
  x = far ? least : x;
  const floats n = (x * 1.44269504f + middle) - middle;
  const floats rest = x - n * 0.693359375f + n * 2.12194440e-4f;
  floats sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
  x = far ? zero : sum * reinterpret_cast<const floats &>(power);
}

// COUNT x LANES channels of what a head gives, from where `value` points on.
template <int LANES, int COUNT>
INLINE void mixed(const float *value, const float *weight, int64_t filled, int64_t size, float factor, float *out) {
  typename Lanes<LANES>::floats sum[COUNT] = {};
  for (int64_t t = 0; t < filled; t++)
    for (int i = 0; i < COUNT; i++) sum[i] += weight[t] * at<LANES>(value + t * size + i * LANES);
  for (int i = 0; i < COUNT; i++) {
    sum[i] *= factor;
    for (int j = 0; j < LANES; j++) out[i * LANES + j] = sum[i][j];
  }
}

// One head: softmax(key query / sqrt(size)) value. size is a multiple of LANES.
template <int LANES>
INLINE void head(const Attend &a, const float *query, const float *key, const float *value, float *out) {
  typedef typename Lanes<LANES>::floats floats;
  float best = -__builtin_inff();
  for (int64_t t = 0; t < a.filled; t++) {
    floats sum = {};
    for (int64_t d = 0; d < a.size; d += LANES) sum += at<LANES>(query + d) * at<LANES>(key + t * a.size + d);
    a.scores[t] = a.scale * total<LANES>(sum);
    best = a.scores[t] > best ? a.scores[t] : best;
  }
  const int64_t padded = (a.filled + LANES - 1) / LANES * LANES;
  for (int64_t t = a.filled; t < padded; t++) a.scores[t] = -__builtin_inff();
  floats sums = {};
  for (int64_t t = 0; t < padded; t += LANES) {
    floats &weight = *reinterpret_cast<floats *>(a.scores + t);
    weight -= best;
    exponentiate<LANES>(weight);
    sums += weight;
  }
  const float factor = 1 / total<LANES>(sums);
  int64_t d = 0;
  for (; d + PARTS * LANES <= a.size; d += PARTS * LANES)
    mixed<LANES, PARTS>(value + d, a.scores, a.filled, a.size, factor, out + d);
  for (; d < a.size; d += LANES) mixed<LANES, 1>(value + d, a.scores, a.filled, a.size, factor, out + d);
}

template <int LANES> INLINE void attend(const Attend &a) {
  const int64_t each = a.length * a.size;
  for (int64_t b = 0; b < a.batch; b++)
    for (int64_t h = 0; h < a.heads; h++) {
      const float *key = a.cache + (2 * b * a.heads + h) * each, *value = key + a.heads * each;
      head<LANES>(a, a.query + b * a.stride + h * a.size, key, value, a.out + (b * a.heads + h) * a.size);
    }
}

#if defined(__x86_64__) || defined(__i386__)
__attribute__((target("avx512f,fma"))) void attend_avx512(const Attend &a) { attend<16>(a); }
__attribute__((target("avx2,fma"))) void attend_avx2(const Attend &a) { attend<8>(a); }
bool has_avx512() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
void attend_generic(const Attend &a) { attend<4>(a); }
bool always() { return true; }

struct Variant {
  const char *name;
  bool (*supported)();
  void (*run)(const Attend &);
};
constexpr Variant VARIANTS[] = {  // the fastest first
#if defined(__x86_64__) || defined(__i386__)
    {"avx512", has_avx512, attend_avx512},
    {"avx2", has_avx2, attend_avx2},
#endif
    {"generic", always, attend_generic},
};
constexpr int COUNT = sizeof(VARIANTS) / sizeof(VARIANTS[0]);

}  // namespace

extern "C" {

int32_t cached_attention_abi() { return ABI; }

// The name of a variant; "" if this CPU lacks its instructions; null past the last.
const char *cached_attention_variant(int32_t variant) {
  if (variant >= COUNT) return nullptr;
  return VARIANTS[variant].supported() ? VARIANTS[variant].name : "";
}

void cached_attention_run(int32_t variant, const Attend *a) { VARIANTS[variant].run(*a); }
}
