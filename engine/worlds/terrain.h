// Land: heights from periodic noise, objects on a grid of cells, baked normals, sun shadow and hollows.
#pragma once
#include "params.h"
#include "shapes.h"

#define PERIOD 384.0f  // metres after which a world repeats, both ways
#define MAP 512        // texels per period
#define TEXEL (PERIOD / MAP)
#define GRID_MAX 64
#define CELL_FLOATS 12
#define TERRAIN_FAR 260.0f

enum Cell { CELL_TYPE, CELL_X, CELL_Z, CELL_Y, CELL_SIZE, CELL_COS, CELL_SIN, CELL_HUE, CELL_VARIANT, CELL_TOP, CELL_LIT, CELL_KIND };

struct World {
    const float* p;        // [PARAM_COUNT]
    const float* height;   // [MAP, MAP] rows are z
    const float* surface;  // [MAP, MAP, 4] normal x, normal z, sunlight, openness
    const float* cells;    // [GRID_MAX * GRID_MAX, CELL_FLOATS]
};
DEV float num(const World& w, int i) { return w.p[i]; }
DEV v3 vec(const World& w, int i) { return V(w.p + i); }
DEV uint32_t seed_of(const float* p) { return (uint32_t)p[P_SEED]; }

DEV float shaped(const float* p, float u, float v) {
    uint32_t seed = seed_of(p);
    int f = (int)p[P_BASE_FREQ];
    float warp = p[P_WARP] / (float)f;
    float du = gradient_noise(u * (float)f, v * (float)f, f, f, seed + 101u) * warp;
    float dv = gradient_noise(u * (float)f, v * (float)f, f, f, seed + 102u) * warp;
    u += du;
    v += dv;
    float sum = 0.0f, a = 0.62f, weight = 1.0f;
    for (int o = 0; o < 6; o++) {
        float n = gradient_noise(u * (float)f, v * (float)f, f, f, seed + (uint32_t)o);
        float r = 1.0f - 2.2f * fabsf(n);
        float ridged = r * r * (r > 0.0f ? 1.0f : -1.0f) * 1.1f - 0.35f;
        float value = mix(n * 1.25f, ridged * weight, p[P_RIDGE]);
        sum += a * value;
        weight = clamp(0.35f + 1.3f * r, 0.25f, 1.0f);
        a *= p[P_GAIN];
        f *= 2;
    }
    if (p[P_DUNE] > 0.0f) {
        float n = gradient_noise(u * 5.0f + dv, v * 13.0f, 5, 13, seed + 55u) * 1.6f;
        float m = gradient_noise(u * 9.0f, v * 4.0f, 9, 4, seed + 56u);
        float crest = 1.0f - fabsf(n + 0.35f * m);
        sum = mix(sum, 1.3f * (crest - 0.55f) + 0.35f * m, p[P_DUNE]);
    }
    return 0.5f + 0.5f * sum;
}
DEV float land(const float* p, float u, float v) {
    float h = shaped(p, u, v), flat = p[P_FLATTEN];
    if (h < flat) h = flat + (h - flat) * mix(1.0f, 0.18f, ramp(0.0f, 0.12f, flat - h));
    h *= p[P_RELIEF];
    float step = p[P_TERRACE];
    if (step > 0.0f) {
        float k = h / step, b = floorf(k);
        h = mix(h, step * (b + ramp(0.25f, 0.75f, k - b)), 0.85f);
    }
    float wet = h - p[P_WATER];  // banks: land does not linger at the water line
    return h + 0.9f * wet * expf(-wet * wet * 2.0f);
}
// Metres from the middle of the nearest trodden path, about: a contour line of smooth noise.
DEV float from_path(const float* p, float x, float z) {
    float n = gradient_noise(x * (4.0f / PERIOD), z * (4.0f / PERIOD), 4, 4, seed_of(p) + 91u);
    float m = gradient_noise(x * (16.0f / PERIOD), z * (16.0f / PERIOD), 16, 16, seed_of(p) + 92u);
    return fabsf(n + 0.05f * m) * 62.0f;
}
// Whether a row or column of cells is a street.
DEV bool is_street(const float* p, int cell) { return p[P_STREET] > 0.0f && cell % (int)p[P_STREET] == 0; }
// Metres from the middle of the nearest street of one direction; a street is one cell wide.
DEV float from_street(const float* p, float x) {
    float side = PERIOD / p[P_GRID], block = side * p[P_STREET], u = x - 0.5f * side;
    return fabsf(u - block * floorf(u / block + 0.5f));
}
struct HeightJob {
    const float* params;
    float* height;
    MEMBER void operator()(int64_t i) const {
        int64_t n = i / (MAP * MAP);
        int k = (int)(i - n * (MAP * MAP));
        float u = (float)(k % MAP) / (float)MAP, v = (float)(k / MAP) / (float)MAP;
        height[i] = land(params + n * PARAM_COUNT, u, v);
    }
};

struct Texels {
    int64_t a, b, c, d;
    float u, v;
};
DEV Texels texels(float x, float z) {
    x *= 1.0f / TEXEL;
    z *= 1.0f / TEXEL;
    float bx = floorf(x), bz = floorf(z);
    int x0 = (int)bx & (MAP - 1), z0 = (int)bz & (MAP - 1), x1 = (x0 + 1) & (MAP - 1), z1 = (z0 + 1) & (MAP - 1);
    Texels t = {z0 * MAP + x0, z0 * MAP + x1, z1 * MAP + x0, z1 * MAP + x1, x - bx, z - bz};
    return t;
}
DEV float ground(const World& w, float x, float z) {
    Texels t = texels(x, z);
    const float* h = w.height;
    return mix(mix(h[t.a], h[t.b], t.u), mix(h[t.c], h[t.d], t.u), t.v);
}
struct Surface {
    v3 n;
    float sun, open;
};
DEV Surface surface_at(const World& w, float x, float z) {
    Texels t = texels(x, z);
    float s[4];
    for (int k = 0; k < 4; k++) {
        s[k] = mix(mix(w.surface[t.a * 4 + k], w.surface[t.b * 4 + k], t.u),
                   mix(w.surface[t.c * 4 + k], w.surface[t.d * 4 + k], t.u), t.v);
    }
    Surface r;
    r.n = unit(V(s[0], sqrtf(fmaxf(1.0f - s[0] * s[0] - s[1] * s[1], 0.02f)), s[1]));
    r.sun = s[2];
    r.open = s[3];
    return r;
}

// The cell under x, z, and the corner of that copy of it which lies there.
struct Place {
    const float* cell;
    float x, z;
};
DEV Place place_at(const World& w, float ix, float iz, float side, int grid) {
    Place r;
    r.cell = w.cells + (int64_t)(wrap((int)iz, grid) * GRID_MAX + wrap((int)ix, grid)) * CELL_FLOATS;
    r.x = ix * side;
    r.z = iz * side;
    return r;
}
DEV Place place_under(const World& w, float x, float z) {
    int grid = (int)num(w, P_GRID);
    float side = PERIOD / (float)grid;
    return place_at(w, floorf(x / side), floorf(z / side), side, grid);
}
DEV v3 into(const Place& c, v3 p) {  // world → units of the object
    float s = 1.0f / c.cell[CELL_SIZE];
    float x = (p.x - c.x - c.cell[CELL_X]) * s, z = (p.z - c.z - c.cell[CELL_Z]) * s;
    float a = c.cell[CELL_COS], b = c.cell[CELL_SIN];
    return V(a * x - b * z, (p.y - c.cell[CELL_Y]) * s, b * x + a * z);
}
DEV float object_distance(const Place& c, v3 p, int* mat) {
    int type = (int)c.cell[CELL_TYPE];
    if (type == NOTHING) return 1e3f;
    v3 q = into(c, p);
    float away = length2(q.x, q.z) - shape_radius(type) - 0.05f;  // cheap while far
    float above = q.y - 1.15f;
    float bound = fmaxf(away, above);
    if (bound > 0.3f) return (bound + 0.05f) * c.cell[CELL_SIZE];
    return shape(type, q, c.cell[CELL_VARIANT], mat) * c.cell[CELL_SIZE];
}

DEV float steepness(const World& w, float x, float z, float r) {
    float dx = ground(w, x + r, z) - ground(w, x - r, z), dz = ground(w, x, z + r) - ground(w, x, z - r);
    return length2(dx, dz) / (2.0f * r);
}
DEV bool may_stand(int type, float slope, float above_water) {
    if (type == ROCK || type == SPIRE) return slope < 1.2f && above_water > -0.6f;
    if (type == CRYSTAL || type == ARCH) return slope < 0.9f && above_water > -0.3f;
    if (type == HOUSE || type == TOWER || type == WALL || type == GATE) return slope < 0.3f && above_water > 0.4f;
    if (type == COLUMN || type == LANTERN) return slope < 0.45f && above_water > 0.2f;
    return slope < 0.75f && above_water > 0.35f;
}
struct CellJob {
    const float* params;
    const float* height;
    float* cells;
    MEMBER void operator()(int64_t i) const {
        int64_t n = i / (GRID_MAX * GRID_MAX);
        int k = (int)(i - n * (GRID_MAX * GRID_MAX)), ix = k % GRID_MAX, iz = k / GRID_MAX;
        const float* p = params + n * PARAM_COUNT;
        World w = {p, height + n * MAP * MAP, height, cells};
        float* c = cells + i * CELL_FLOATS;
        for (int j = 0; j < CELL_FLOATS; j++) c[j] = 0.0f;
        c[CELL_SIZE] = 1.0f;
        c[CELL_LIT] = 1.0f;
        int grid = (int)p[P_GRID];
        if (ix >= grid || iz >= grid) return;
        float side = PERIOD / (float)grid, x = (float)ix * side, z = (float)iz * side;
        float top = -1e3f;
        int first_x = (int)floorf(x / TEXEL), last_x = (int)ceilf((x + side) / TEXEL);
        int first_z = (int)floorf(z / TEXEL), last_z = (int)ceilf((z + side) / TEXEL);
        for (int b = first_z; b <= last_z; b++) {
            for (int a = first_x; a <= last_x; a++) top = fmaxf(top, w.height[(b & (MAP - 1)) * MAP + (a & (MAP - 1))]);
        }
        c[CELL_TOP] = top + 0.01f;
        plant(w, c, k, x, z, side, top);
    }
    MEMBER void plant(const World& w, float* c, int k, float x, float z, float side, float top) const {
        const float* p = w.p;
        uint32_t s = seed_of(p), id = (uint32_t)k;
        if (is_street(p, k % GRID_MAX) || is_street(p, k / GRID_MAX)) return;
        float grove = gradient_noise((x + 0.5f * side) * (9.0f / PERIOD), (z + 0.5f * side) * (9.0f / PERIOD), 9, 9, s + 77u);
        float chance = p[P_DENSITY] * mix(1.0f, 1.7f * ramp(-0.12f, 0.25f, grove), p[P_CLUSTER]);
        if (uniform(s, id, 1u) > chance) return;
        float pick = uniform(s, id, 2u);
        int kind = 0;
        while (kind < 4 && pick > p[P_SHARE + kind]) kind++;
        int type = (int)p[P_OBJECT + kind];
        if (type == NOTHING) return;
        float radius = shape_radius(type), room = 0.5f * side - 0.15f;
        float size = p[P_SIZE + kind] * mix(0.72f, 1.3f, uniform(s, id, 3u));
        size = fminf(size, room / radius);
        float slack = room - size * radius;
        float ox = 0.5f * side + slack * (2.0f * uniform(s, id, 4u) - 1.0f);
        float oz = 0.5f * side + slack * (2.0f * uniform(s, id, 5u) - 1.0f);
        if (p[P_PATH] > 0.0f && from_path(p, x + ox, z + oz) < 1.6f + 0.8f * size * radius) return;
        float slope = steepness(w, x + ox, z + oz, fmaxf(0.8f, 0.6f * size * radius));
        float base = ground(w, x + ox, z + oz);
        if (!may_stand(type, slope, base - p[P_WATER])) return;
        bool built = type == HOUSE || type == TOWER || type == WALL || type == GATE;
        float turn = uniform(s, id, 6u) * 6.2831853f;
        if (type == TOWER) turn = 0.0f;
        if (type == GATE || type == HOUSE) turn = floorf(uniform(s, id, 6u) * 4.0f) * 1.5707963f + 0.25f * uniform(s, id, 9u);
        c[CELL_TYPE] = (float)type;
        c[CELL_KIND] = (float)kind;
        c[CELL_X] = ox;
        c[CELL_Z] = oz;
        c[CELL_Y] = base - (built ? 0.3f : 0.6f) * slope * size * radius;
        c[CELL_SIZE] = size;
        c[CELL_COS] = cosf(turn);
        c[CELL_SIN] = sinf(turn);
        c[CELL_HUE] = uniform(s, id, 7u);
        c[CELL_VARIANT] = uniform(s, id, 8u);
        c[CELL_TOP] = fmaxf(top, c[CELL_Y] + 1.06f * size) + 0.01f;
    }
};

// Share of the sun's disc that p sees, 0…1: land and objects, soft at the edge. `own` cell casts nothing.
DEV_CALL float sunlight(const World& w, v3 p, const float* own) {
    v3 d = vec(w, P_SUN);
    int grid = (int)num(w, P_GRID);
    float side = PERIOD / (float)grid, t = 0.25f, lit = 1.0f;
    float ex = fmaxf(fabsf(d.x), 1e-6f), ez = fmaxf(fabsf(d.z), 1e-6f);
    for (int i = 0; i < 160 && t < 110.0f && lit > 0.01f; i++) {
        v3 q = p + d * t;
        float ix = floorf(q.x / side), iz = floorf(q.z / side);
        Place c = place_at(w, ix, iz, side, grid);
        float bx = d.x > 0.0f ? (ix + 1.0f) * side - q.x : q.x - ix * side;
        float bz = d.z > 0.0f ? (iz + 1.0f) * side - q.z : q.z - iz * side;
        float leave = fminf(bx / ex, bz / ez) + 0.01f;
        if (q.y - 0.06f * t > c.cell[CELL_TOP]) {
            t += leave;
            continue;
        }
        int mat;
        float gap = (q.y - ground(w, q.x, q.z)) * 0.8f;
        if (c.cell != own) gap = fminf(gap, object_distance(c, q, &mat));
        lit = fminf(lit, 0.5f + 0.5f * gap / (0.035f * t + 0.05f));
        t += clamp(fabsf(gap) * 0.9f, 0.15f + 0.01f * t, leave);
    }
    lit = clamp(lit, 0.0f, 1.0f);
    return lit * lit * (3.0f - 2.0f * lit);
}
struct SurfaceJob {
    const float* params;
    const float* height;
    float* surface;
    const float* cells;
    MEMBER void operator()(int64_t i) const {
        int64_t n = i / (MAP * MAP);
        int k = (int)(i - n * (MAP * MAP));
        World w = {params + n * PARAM_COUNT, height + n * MAP * MAP, surface + n * MAP * MAP * 4,
                   cells + n * GRID_MAX * GRID_MAX * CELL_FLOATS};
        float x = (float)(k % MAP) * TEXEL, z = (float)(k / MAP) * TEXEL, h = height[i];
        float dx = ground(w, x + TEXEL, z) - ground(w, x - TEXEL, z);
        float dz = ground(w, x, z + TEXEL) - ground(w, x, z - TEXEL);
        v3 normal = unit(V(-dx, 2.0f * TEXEL, -dz));
        float closed = 0.0f;
        for (int a = 0; a < 8; a++) {
            float ca = cosf((float)a * 0.785398f), sa = sinf((float)a * 0.785398f), rise = 0.0f;
            for (float r = 1.5f; r < 20.0f; r *= 2.5f) rise = fmaxf(rise, (ground(w, x + ca * r, z + sa * r) - h) / r);
            closed += rise / (1.0f + rise);
        }
        int mat;
        float near = object_distance(place_under(w, x, z), V(x, h + 0.1f, z), &mat);
        float open = (1.0f - 0.085f * closed) * mix(0.55f, 1.0f, ramp(-0.2f, 1.3f, near));
        float* s = surface + i * 4;
        s[0] = normal.x;
        s[1] = normal.z;
        s[2] = sunlight(w, V(x, h, z) + normal * 0.15f, 0);
        s[3] = open;
    }
};
struct CellLightJob {
    const float* params;
    const float* height;
    float* cells;
    MEMBER void operator()(int64_t i) const {
        int64_t n = i / (GRID_MAX * GRID_MAX);
        int k = (int)(i - n * (GRID_MAX * GRID_MAX));
        float* c = cells + i * CELL_FLOATS;
        if ((int)c[CELL_TYPE] == NOTHING) return;
        World w = {params + n * PARAM_COUNT, height + n * MAP * MAP, height,
                   cells + n * GRID_MAX * GRID_MAX * CELL_FLOATS};
        float side = PERIOD / w.p[P_GRID];
        float x = (float)(k % GRID_MAX) * side + c[CELL_X], z = (float)(k / GRID_MAX) * side + c[CELL_Z];
        c[CELL_LIT] = sunlight(w, V(x, c[CELL_Y] + 0.65f * c[CELL_SIZE], z), c);
    }
};
