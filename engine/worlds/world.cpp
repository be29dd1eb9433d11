// Procedural worlds with exact pose and depth. One source: nvcc -x cu for the GPU, any C++17 compiler with
// OpenMP for the CPU. Each function returns 0, or the CUDA error code of its launch.
#include "flight.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int world_param_count() { return PARAM_COUNT; }

EXPORT const char* world_error(int code) {
#ifdef __CUDACC__
    return cudaGetErrorString((cudaError_t)code);
#else
    return code ? "unknown" : "none";
#endif
}

// params [N, PARAM_COUNT] → height [N, MAP, MAP], surface [N, MAP, MAP, 4], cells [N, GRID_MAX², CELL_FLOATS]
EXPORT int world_bake(const float* params, float* height, float* surface, float* cells, int64_t n, void* stream, int threads) {
    HeightJob lift = {params, height};
    CellJob plant = {params, height, cells};
    CellLightJob light = {params, height, cells};
    SurfaceJob finish = {params, height, surface, cells};
    int64_t texels = n * MAP * MAP, places = n * GRID_MAX * GRID_MAX;
    int error = for_each(lift, texels, stream, threads);
    if (!error) error = for_each(plant, places, stream, threads);
    if (!error) error = for_each(light, places, stream, threads);
    if (!error) error = for_each(finish, texels, stream, threads);
    return error;
}

EXPORT int world_render(const float* params, const float* height, const float* surface, const float* cells,
                        const int64_t* index, const float* poses, const float* intrinsics, uint8_t* rgb, float* inverse,
                        int64_t m, int width, int height_px, int side, void* stream, int threads) {
    RenderJob job = {params, height, surface, cells, index, poses, intrinsics, rgb, inverse, width, height_px, side};
    return for_each(job, m * width * height_px, stream, threads);
}

EXPORT int world_fly(const float* params, const float* height, const float* surface, const float* cells,
                     const int64_t* index, const int64_t* seeds, float* starts, float* poses, float* intrinsics,
                     int64_t b, int frames, int width, int height_px, void* stream, int threads) {
    ScoutJob scout = {params, height, surface, cells, index, seeds, starts, width, height_px};
    Spread<ScoutJob> scouts = {scout, 8};
    int error = for_each(scouts, b * CANDIDATES * scouts.lanes, stream, threads);
    FlightJob flight = {params, height, surface, cells, index, seeds, starts, poses, intrinsics, frames, width, height_px};
    Spread<FlightJob> flights = {flight, 32};
    if (!error) error = for_each(flights, b * flights.lanes, stream, threads);
    return error;
}

// points [M, 3], y up → gap [M, 2]: height over ground or water, distance to the nearest thing (at least)
struct GapJob {
    const float *params, *height, *surface, *cells;
    const int64_t* index;
    const float* points;
    float* gap;
    MEMBER void operator()(int64_t i) const {
        int64_t n = index[i];
        World w = {params + n * PARAM_COUNT, height + n * MAP * MAP, surface + n * MAP * MAP * 4,
                   cells + n * GRID_MAX * GRID_MAX * CELL_FLOATS};
        v3 p = V(points + i * 3);
        gap[i * 2] = p.y - floor_at(w, p.x, p.z);
        gap[i * 2 + 1] = to_things(w, p);
    }
};
EXPORT int world_gap(const float* params, const float* height, const float* surface, const float* cells,
                     const int64_t* index, const float* points, float* gap, int64_t m, void* stream, int threads) {
    GapJob job = {params, height, surface, cells, index, points, gap};
    return for_each(job, m, stream, threads);
}
