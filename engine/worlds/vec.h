// Vectors, integer hashes and periodic noise for CUDA and plain C++, and the loop over independent jobs.
#pragma once
#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define DEV __device__ __forceinline__
#define DEV_CALL static __device__ __noinline__
#define MEMBER __device__
#else
#define DEV static inline
#define DEV_CALL static
#define MEMBER
#endif

struct v3 {
    float x, y, z;
};
DEV v3 V(float x, float y, float z) {
    v3 r = {x, y, z};
    return r;
}
DEV v3 V(const float* p) { return V(p[0], p[1], p[2]); }
DEV v3 operator+(v3 a, v3 b) { return V(a.x + b.x, a.y + b.y, a.z + b.z); }
DEV v3 operator-(v3 a, v3 b) { return V(a.x - b.x, a.y - b.y, a.z - b.z); }
DEV v3 operator*(v3 a, v3 b) { return V(a.x * b.x, a.y * b.y, a.z * b.z); }
DEV v3 operator*(v3 a, float s) { return V(a.x * s, a.y * s, a.z * s); }
DEV float dot(v3 a, v3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
DEV float length(v3 a) { return sqrtf(dot(a, a)); }
DEV float length2(float a, float b) { return sqrtf(a * a + b * b); }
DEV v3 unit(v3 a) { return a * (1.0f / fmaxf(length(a), 1e-12f)); }
DEV float mix(float a, float b, float k) { return a + (b - a) * k; }
DEV v3 mix(v3 a, v3 b, float k) { return a + (b - a) * k; }
DEV float clamp(float x, float lo, float hi) { return fminf(fmaxf(x, lo), hi); }
DEV float ramp(float lo, float hi, float x) {  // smoothstep
    float k = clamp((x - lo) / (hi - lo), 0.0f, 1.0f);
    return k * k * (3.0f - 2.0f * k);
}

// Avalanche (murmur3 finaliser constants).
DEV uint32_t scramble(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    return h ^ (h >> 16);
}
DEV uint32_t hash(uint32_t a, uint32_t b, uint32_t c) {
    return scramble((scramble(scramble(a + 0x9e3779b9u) ^ b) + 0x7f4a7c15u) ^ c);
}
DEV float uniform(uint32_t h) { return (float)(h >> 8) * (1.0f / 16777216.0f); }
DEV float uniform(uint32_t a, uint32_t b, uint32_t c) { return uniform(hash(a, b, c)); }

DEV int wrap(int i, int n) {
    int r = i % n;
    return r < 0 ? r + n : r;
}

DEV float corner(int x, int y, float fx, float fy, uint32_t seed) {
    uint32_t h = hash((uint32_t)x, (uint32_t)y, seed);
    float gx = (float)(h & 0xffffu) * (1.0f / 32768.0f) - 1.0f;
    float gy = (float)(h >> 16) * (1.0f / 32768.0f) - 1.0f;
    return gx * fx + gy * fy;
}
// Gradient noise about 0, within ±1, that repeats after nx, ny cells.
DEV_CALL float gradient_noise(float x, float y, int nx, int ny, uint32_t seed) {
    float bx = floorf(x), by = floorf(y);
    float fx = x - bx, fy = y - by;
    int x0 = wrap((int)bx, nx), y0 = wrap((int)by, ny);
    int x1 = x0 + 1 == nx ? 0 : x0 + 1, y1 = y0 + 1 == ny ? 0 : y0 + 1;
    float u = fx * fx * fx * (fx * (fx * 6.0f - 15.0f) + 10.0f);
    float v = fy * fy * fy * (fy * (fy * 6.0f - 15.0f) + 10.0f);
    float a = mix(corner(x0, y0, fx, fy, seed), corner(x1, y0, fx - 1.0f, fy, seed), u);
    float b = mix(corner(x0, y1, fx, fy - 1.0f, seed), corner(x1, y1, fx - 1.0f, fy - 1.0f, seed), u);
    return mix(a, b, v) * 1.25f;
}
// Value noise in 0…1 that repeats after n cells (n a power of two).
DEV float value_noise(float x, float y, int n, uint32_t seed) {
    float bx = floorf(x), by = floorf(y);
    float u = ramp(0.0f, 1.0f, x - bx), v = ramp(0.0f, 1.0f, y - by);
    uint32_t m = (uint32_t)(n - 1);
    uint32_t x0 = (uint32_t)(int)bx & m, y0 = (uint32_t)(int)by & m, x1 = (x0 + 1u) & m, y1 = (y0 + 1u) & m;
    return mix(mix(uniform(x0, y0, seed), uniform(x1, y0, seed), u),
               mix(uniform(x0, y1, seed), uniform(x1, y1, seed), u), v);
}

#ifdef __CUDACC__
template <class Job>
__global__ void __launch_bounds__(128) each_kernel(Job job, int64_t n) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) job(i);
}
#endif

// A job of few long items: each gets `lanes` threads and uses one, so that no two of a warp wait for each other's branches.
template <class Job>
struct Spread {
    Job job;
    int lanes;
    MEMBER void operator()(int64_t i) const {
        if (i % lanes == 0) job(i / lanes);
    }
};

// Do job(i) for i in 0…n-1, in any order. Returns the CUDA error code of the launch, 0 on the CPU.
template <class Job>
int for_each(const Job& job, int64_t n, void* stream, int threads) {
    if (n <= 0) return 0;
#ifdef __CUDACC__
    (void)threads;
    int64_t blocks = (n + 127) / 128;
    if (blocks > (1 << 22)) blocks = 1 << 22;
    each_kernel<Job><<<(unsigned)blocks, 128, 0, (cudaStream_t)stream>>>(job, n);
    return (int)cudaGetLastError();
#else
    (void)stream;
#pragma omp parallel for schedule(dynamic, 32) num_threads(threads)
    for (int64_t i = 0; i < n; i++) job(i);
    return 0;
#endif
}
