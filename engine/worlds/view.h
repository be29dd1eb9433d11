// A ray through a world: marching, colours of ground, water and things, air in between.
#pragma once
#include "sky.h"

enum HitKind { HIT_SKY, HIT_LAND, HIT_OBJECT, HIT_WATER };
struct Hit {
    float t;
    int kind, mat;
    Place place;
};

// First surface along o + t·d within `far`. d is unit; o may lie anywhere.
DEV_CALL Hit march(const World& w, v3 o, v3 d, float far, int budget) {
    Hit hit = {far, HIT_SKY, 0, {w.cells, 0.0f, 0.0f}};
    float water = num(w, P_WATER);
    if (d.y < -1e-5f && o.y > water) {
        float t = (water - o.y) / d.y;
        if (t < hit.t) {
            hit.t = t;
            hit.kind = HIT_WATER;
        }
    }
    int grid = (int)num(w, P_GRID);
    float side = PERIOD / (float)grid, t = 0.02f, above = 0.0f;
    float ex = fmaxf(fabsf(d.x), 1e-6f), ez = fmaxf(fabsf(d.z), 1e-6f);
    for (int i = 0; i < budget && t < hit.t; i++) {
        v3 p = o + d * t;
        float ix = floorf(p.x / side), iz = floorf(p.z / side);
        Place c = place_at(w, ix, iz, side, grid);
        float bx = d.x > 0.0f ? (ix + 1.0f) * side - p.x : p.x - ix * side;
        float bz = d.z > 0.0f ? (iz + 1.0f) * side - p.z : p.z - iz * side;
        float leave = fminf(bx / ex, bz / ez) + 0.001f + 2e-6f * t;
        if (fminf(p.y, p.y + d.y * leave) > c.cell[CELL_TOP]) {
            above = t;
            t += leave;
            continue;
        }
        float gap = p.y - ground(w, p.x, p.z);
        bool last = i == budget - 1;  // out of steps while grazing: what is this near is the surface
        if (gap < (last ? 0.05f : 0.0003f) * t) {
            float lo = above, hi = t;
            for (int k = 0; k < 6 && gap < 0.0f; k++) {
                float m = 0.5f * (lo + hi);
                v3 q = o + d * m;
                if (q.y < ground(w, q.x, q.z)) hi = m; else lo = m;
            }
            v3 a = o + d * lo, b = o + d * hi;  // and where the line through both meets the ground
            float ga = a.y - ground(w, a.x, a.z), gb = b.y - ground(w, b.x, b.z);
            float beyond = gb * (hi - lo) / fmaxf(ga - gb, 1e-6f);
            hit.t = hi + clamp(beyond, lo - hi, 0.02f * hi + 0.02f);
            hit.kind = HIT_LAND;
            return hit;
        }
        int mat = STONE;
        float thing = object_distance(c, p, &mat);
        if (thing < 0.003f + (last ? 0.03f : 0.0009f) * t) {
            hit.t = t + fmaxf(thing, 0.0f);
            hit.kind = HIT_OBJECT;
            hit.mat = mat;
            hit.place = c;
            return hit;
        }
        above = t;
        t += clamp(fminf(0.62f * gap, 0.92f * thing), 0.006f + 0.0025f * t, leave);
    }
    if (t < hit.t) hit.kind = HIT_SKY;
    return hit;
}

DEV v3 object_normal(const Place& c, v3 p, float e) {
    int m;
    float a = object_distance(c, p + V(e, -e, -e), &m), b = object_distance(c, p + V(-e, -e, e), &m);
    float f = object_distance(c, p + V(-e, e, -e), &m), g = object_distance(c, p + V(e, e, e), &m);
    return unit(V(a - b - f + g, -a - b + f + g, -a + b - f + g));
}

// Asphalt with a broken line in the middle, kerbs, and slabs beside it.
DEV v3 street_colour(const World& w, v3 p, float fine, float t) {
    float a = from_street(w.p, p.x), b = from_street(w.p, p.z), near = 1.0f - ramp(45.0f, 140.0f, t);
    float across = fminf(a, b), along = a < b ? p.z : p.x;
    float slab_x = p.x * 0.5f - floorf(p.x * 0.5f), slab_z = p.z * 0.5f - floorf(p.z * 0.5f);
    float joint = (1.0f - ramp(0.02f, 0.06f, fminf(slab_x, slab_z))) * (1.0f - ramp(12.0f, 40.0f, t));
    v3 c = vec(w, P_C_SHORE) * (0.52f - 0.10f * joint + 0.06f * fine);
    c = mix(c, vec(w, P_C_SHORE) * 0.75f, ramp(4.1f, 4.2f, across) * (1.0f - ramp(4.5f, 4.6f, across)) * near);
    v3 asphalt = V(0.070f, 0.074f, 0.082f) * (0.85f + 0.35f * fine);
    float dash = along * 0.25f - floorf(along * 0.25f);
    bool crossing = a < 4.2f && b < 4.2f;
    float line = crossing ? 0.0f : (1.0f - ramp(0.10f, 0.18f, across)) * (dash < 0.55f ? 1.0f : 0.0f);
    float other = fmaxf(a, b);
    // where a street meets another: stripes to walk on
    if (!crossing && other > 4.8f && other < 7.2f) line = across - 1.2f * floorf(across / 1.2f) < 0.6f ? 0.9f : 0.0f;
    asphalt = mix(asphalt, V(0.62f, 0.62f, 0.58f), line * near);
    return mix(asphalt, c, ramp(4.0f, 4.15f, across));
}
DEV v3 ground_colour(const World& w, v3 p, v3 n, float t) {
    uint32_t s = seed_of(w.p);
    float broad = value_noise(p.x * (64.0f / PERIOD), p.z * (64.0f / PERIOD), 64, s + 11u);
    float fine = value_noise(p.x * (512.0f / PERIOD), p.z * (512.0f / PERIOD), 512, s + 12u);
    float close = 1.0f - ramp(25.0f, 90.0f, t);
    fine = mix(0.5f, fine, close);
    float lift = p.y + 0.12f * num(w, P_RELIEF) * (broad - 0.5f);
    float low = num(w, P_TIER_LOW), high = num(w, P_TIER_HIGH);
    v3 c = mix(vec(w, P_C_LOW), vec(w, P_C_MID), ramp(low - 1.5f, low + 1.5f, lift));
    c = mix(c, vec(w, P_C_HIGH), ramp(high - 2.0f, high + 2.0f, lift));
    c = mix(c, mix(vec(w, P_C_LOW), vec(w, P_C_MID), 0.5f), 0.45f * ramp(0.35f, 0.75f, broad));
    float patch_tone = ramp(0.40f, 0.60f, value_noise(p.x * (256.0f / PERIOD), p.z * (256.0f / PERIOD), 256, s + 15u));
    c = c * mix(1.0f, 0.90f + 0.17f * patch_tone, 1.0f - ramp(40.0f, 150.0f, t));
    float dune = num(w, P_DUNE);
    if (dune > 0.0f) {  // ripples of the wind, half a metre apart
        float ripple = sinf((p.x * 600.0f + p.z * 220.0f) * (6.2831853f / PERIOD) + 9.0f * broad + 2.0f * fine);
        c = c * (1.0f + 0.11f * dune * ripple * (1.0f - ramp(10.0f, 42.0f, t)));
    }
    float rows = num(w, P_ROWS);
    if (rows > 0.0f) {
        float wave = 0.5f + 0.5f * sinf((p.x * 128.0f + 6.0f * broad) * (6.2831853f / PERIOD));
        wave = mix(0.62f, ramp(0.25f, 0.6f, wave), 1.0f - ramp(35.0f, 110.0f, t));
        c = mix(c, vec(w, P_C_ACCENT) * (0.8f + 0.4f * fine), rows * wave * ramp(0.72f, 0.9f, n.y));
    }
    float accent = num(w, P_ACCENT);
    if (accent > 0.0f) {
        float fx = p.x * (512.0f / PERIOD), fz = p.z * (512.0f / PERIOD), bx = floorf(fx), bz = floorf(fz);
        uint32_t h = hash((uint32_t)(int)bx & 511u, (uint32_t)(int)bz & 511u, s + 13u);
        float dx = fx - bx - 0.3f - 0.4f * uniform(h, 1u, 1u), dz = fz - bz - 0.3f - 0.4f * uniform(h, 2u, 1u);
        float patch = accent * ramp(0.42f, 0.62f, broad);
        float dot_here = uniform(h) < patch ? 1.0f - ramp(0.07f, 0.15f, length2(dx, dz)) : 0.0f;
        c = mix(c, vec(w, P_C_ACCENT), mix(0.13f * patch, dot_here, 1.0f - ramp(9.0f, 28.0f, t)));
    }
    float path = num(w, P_PATH);
    if (path > 0.0f) c = mix(c, vec(w, P_C_SHORE) * (0.9f + 0.15f * fine), path * (1.0f - ramp(1.0f, 1.7f, from_path(w.p, p.x, p.z) + 0.5f * fine)));
    if (num(w, P_STREET) > 0.0f) c = street_colour(w, p, fine, t);
    float cliff = 1.0f - ramp(num(w, P_STEEP) - 0.09f, num(w, P_STEEP) + 0.05f, n.y);
    float bands = 0.90f + 0.16f * value_noise(p.y * 1.3f + 3.0f * broad, 3.7f, 64, s + 14u);
    c = mix(c, vec(w, P_C_STEEP) * bands, cliff);
    float snow = num(w, P_SNOW);
    if (snow > 0.0f) {
        float line = num(w, P_RELIEF) * (1.15f - 1.3f * snow) + 5.0f * (broad - 0.5f);
        c = mix(c, V(0.86f, 0.90f, 0.97f), ramp(line, line + 3.0f, p.y) * ramp(0.58f, 0.76f, n.y));
    }
    float wet = p.y - num(w, P_WATER);
    c = mix(vec(w, P_C_SHORE), c, ramp(0.35f, 1.1f + broad, wet));
    return c * (0.84f + 0.20f * broad + 0.14f * fine);
}

DEV v3 windows(const World& w, const Place& c, v3 q, v3 n, v3 wall, float scale, float density) {
    if (fabsf(n.y) > 0.5f) return wall * 0.8f;
    float along = fabsf(n.x) > fabsf(n.z) ? q.z : q.x, u = along * scale + 20.5f, v = q.y * scale * 0.8f + 20.0f;
    float bu = floorf(u), bv = floorf(v);
    float gu = fabsf(u - bu - 0.5f), gv = fabsf(v - bv - 0.5f);
    float pane = (1.0f - ramp(0.24f, 0.32f, gu)) * (1.0f - ramp(0.26f, 0.34f, gv));
    uint32_t id = (uint32_t)(c.cell[CELL_HUE] * 65536.0f);
    float on = uniform((uint32_t)(int)bu * 7u + (n.x > 0.5f ? 1u : n.z > 0.5f ? 2u : 3u), (uint32_t)(int)bv, id) < density ? 1.0f : 0.0f;
    v3 dark = mix(vec(w, P_C_ZENITH), V(0.06f, 0.08f, 0.12f), 0.6f);
    return mix(wall, mix(dark, vec(w, P_C_GLOW) * 1.6f, on * fminf(num(w, P_GLOW), 1.0f)), pane);
}
// Own colour of a thing, and how much of it shines by itself.
DEV v3 object_colour(const World& w, const Hit& hit, v3 p, v3 n, float* shine) {
    const float* cell = hit.place.cell;
    v3 q = into(hit.place, p);
    int type = (int)cell[CELL_TYPE];
    float hue = cell[CELL_HUE], glow = num(w, P_GLOW);
    *shine = 0.0f;
    switch (hit.mat) {
        case LEAF: {
            v3 c = mix(vec(w, P_C_LEAF), vec(w, P_C_LEAF2), hue) * mix(0.66f, 1.12f, clamp(q.y, 0.0f, 1.0f));
            float snow = num(w, P_SNOW);
            if (snow > 0.3f && type != CACTUS) c = mix(c, V(0.86f, 0.90f, 0.97f), 0.9f * ramp(0.25f, 0.65f, n.y) * ramp(0.3f, 0.8f, snow));
            return c;
        }
        case WOOD: return vec(w, P_C_WOOD) * (0.85f + 0.3f * hue);
        case PLASTER: {
            v3 wall = mix(vec(w, P_C_WALL), vec(w, P_C_STONE), 0.35f * hue);
            v3 a = V(cell[CELL_COS], 0.0f, -cell[CELL_SIN]), b = V(cell[CELL_SIN], 0.0f, cell[CELL_COS]);
            v3 m = V(dot(n, a), n.y, dot(n, b));
            if (q.y > 0.5f) return wall;
            v3 c = windows(w, hit.place, q, m, wall, 3.1f, 0.8f);
            *shine = c.x > wall.x * 1.05f ? glow * 0.8f : 0.0f;
            return c;
        }
        case FACADE: {
            v3 wall = mix(vec(w, P_C_WALL), vec(w, P_C_STONE), hue);
            v3 c = windows(w, hit.place, q, n, wall, 0.42f * cell[CELL_SIZE] < 6.0f ? 6.0f : fminf(0.42f * cell[CELL_SIZE], 13.0f), 0.45f);
            *shine = c.x > wall.x * 1.05f ? glow * 0.8f : 0.0f;
            return c;
        }
        case ROOF: return vec(w, P_C_ROOF) * (0.85f + 0.3f * hue);
        case PAINT: return vec(w, P_C_ROOF);
        case LAMP:
            *shine = fmaxf(0.25f, glow) * 1.3f;
            return vec(w, P_C_GLOW);
        case GEM:
            *shine = 0.25f + 0.5f * glow;
            return mix(vec(w, P_C_GLOW), vec(w, P_C_LEAF), hue) * mix(0.6f, 1.15f, clamp(q.y, 0.0f, 1.0f));
        case CAP: {
            v3 c = mix(vec(w, P_C_ROOF), vec(w, P_C_LEAF2), hue * 0.8f);
            float a = atan2f(q.z, q.x) * 1.2732395f, r = length2(q.x, q.z) * 9.0f;
            float u = a - floorf(a) - 0.5f, v = r - floorf(r) - 0.5f;
            if (n.y > 0.15f && r > 0.6f && length2(u * r * 0.5f, v) < 0.28f) c = vec(w, P_C_WALL);
            *shine = n.y < -0.1f ? glow * 0.9f : glow * 0.12f;
            return n.y < -0.1f ? mix(vec(w, P_C_WALL), vec(w, P_C_GLOW), fminf(glow, 1.0f)) : c;
        }
        case STEM: return vec(w, P_C_WALL) * mix(0.75f, 1.0f, q.y);
        default: {
            float band = type == SPIRE || type == ARCH ? 0.9f + 0.14f * sinf(p.y * 2.1f + 2.0f * hue) : 1.0f;
            v3 c = vec(w, P_C_STONE) * ((0.86f + 0.25f * hue) * band);
            float snow = num(w, P_SNOW);
            if (snow > 0.3f) c = mix(c, V(0.86f, 0.90f, 0.97f), ramp(0.5f, 0.8f, n.y) * ramp(0.3f, 0.8f, snow));
            return c;
        }
    }
}

DEV v3 air(const World& w, v3 o, v3 d, float t, v3 c) {
    float far = 1.0f - expf(-powf(t * num(w, P_FOG), 1.35f));
    far = fmaxf(far, ramp(0.55f * TERRAIN_FAR, 0.97f * TERRAIN_FAR, t));
    v3 mist_colour = haze(w, d);
    float dense = num(w, P_MIST);
    if (dense > 0.0f) {  // exponential layer, integrated along the ray
        float fall = num(w, P_MIST_FALL), h = (o.y - num(w, P_MIST_TOP)) / fall, dy = d.y * t / fall;
        float mean = fabsf(dy) < 1e-3f ? 1.0f : (1.0f - expf(-clamp(dy, -30.0f, 30.0f))) / dy;
        float depth = dense * expf(-clamp(h, -2.0f, 20.0f)) * fminf(mean, 400.0f) * t;
        far = 1.0f - (1.0f - far) * expf(-fminf(depth, 30.0f));
    }
    return mix(c, mist_colour, clamp(far, 0.0f, 1.0f));
}

DEV v3 lamplight(const World& w, v3 p) {
    Place c = place_under(w, p.x, p.z);
    if ((int)c.cell[CELL_TYPE] != LANTERN || num(w, P_GLOW) <= 0.0f) return V(0.0f, 0.0f, 0.0f);
    float s = c.cell[CELL_SIZE];
    v3 lamp = V(c.x + c.cell[CELL_X], c.cell[CELL_Y] + 0.82f * s, c.z + c.cell[CELL_Z]);
    float r = length(p - lamp);
    return vec(w, P_C_GLOW) * (num(w, P_GLOW) * 2.2f / (1.0f + 0.35f * r * r) * (1.0f - ramp(2.5f, 5.5f, r)));
}
DEV v3 lit_land(const World& w, v3 p, float t) {
    Surface s = surface_at(w, p.x, p.z);
    float sun = fmaxf(dot(s.n, vec(w, P_SUN)), 0.0f);
    float drift = value_noise(p.x * (8.0f / PERIOD), p.z * (8.0f / PERIOD), 8, seed_of(w.p) + 33u);  // shadows of clouds
    sun *= 1.0f - 0.55f * fminf(num(w, P_CLOUD), 0.7f) * ramp(0.45f, 0.68f, drift);
    v3 light = vec(w, P_C_SUN) * (sun * s.sun) + vec(w, P_C_AMBIENT) * (s.open * (0.62f + 0.38f * s.n.y)) + lamplight(w, p);
    return ground_colour(w, p, s.n, t) * light;
}
DEV v3 lit_object(const World& w, const Hit& hit, v3 o, v3 d) {
    v3 p = o + d * hit.t, n = object_normal(hit.place, p, 0.012f + 0.0012f * hit.t), to_sun = vec(w, P_SUN);
    float shine, facing = dot(n, to_sun);
    v3 base = object_colour(w, hit, p, n, &shine);
    bool soft = hit.mat == LEAF;
    float sun = soft ? clamp(0.32f + 0.68f * facing, 0.0f, 1.0f) : fmaxf(facing, 0.0f);
    float height = clamp((p.y - hit.place.cell[CELL_Y]) / hit.place.cell[CELL_SIZE], 0.0f, 1.0f);
    v3 sky = vec(w, P_C_AMBIENT) * ((0.60f + 0.40f * n.y) * mix(0.72f, 1.0f, height));
    v3 bounce = vec(w, P_C_MID) * vec(w, P_C_SUN) * (0.14f * (0.5f - 0.5f * n.y));
    v3 c = base * (vec(w, P_C_SUN) * (sun * hit.place.cell[CELL_LIT]) + sky + bounce);
    float rim = 1.0f - clamp(-dot(n, d), 0.0f, 1.0f), back = fmaxf(dot(d, to_sun), 0.0f);
    c = c + vec(w, P_C_SUN) * (rim * rim * rim * back * back * 0.35f * hit.place.cell[CELL_LIT]);
    if (hit.mat == GEM) c = c + mix(vec(w, P_C_HORIZON), V(1.0f, 1.0f, 1.0f), 0.4f) * (0.5f * rim * rim);
    return mix(c, base, fminf(shine, 1.0f)) + base * fmaxf(shine - 1.0f, 0.0f);
}
DEV v3 lit_water(const World& w, v3 o, v3 d, float t) {
    v3 p = o + d * t;
    uint32_t s = seed_of(w.p) + 21u;
    float calm = 1.0f - ramp(5.0f, 60.0f, t) * 0.85f, amount = 0.10f * calm;
    float a = value_noise(p.x * (256.0f / PERIOD), p.z * (512.0f / PERIOD), 512, s);
    float b = value_noise(p.x * (512.0f / PERIOD) + 7.3f, p.z * (256.0f / PERIOD), 512, s + 1u);
    v3 n = unit(V((a - 0.5f) * amount, 1.0f, (b - 0.5f) * amount));
    float depth = p.y - ground(w, p.x, p.z);
    v3 light = vec(w, P_C_SUN) * (0.25f + 0.55f * fmaxf(vec(w, P_SUN).y, 0.0f)) + vec(w, P_C_AMBIENT);
    float glow = num(w, P_WATER_GLOW);
    v3 body = mix(vec(w, P_C_SHALLOW), vec(w, P_C_WATER), 1.0f - expf(-0.42f * depth)) * mix(light, V(1.0f, 1.0f, 1.0f), glow);
    if (glow > 0.0f) {
        float crust = value_noise(p.x * (128.0f / PERIOD), p.z * (128.0f / PERIOD), 128, s + 3u);
        crust = 0.6f * crust + 0.4f * a;
        return mix(body * 1.25f, body * 0.16f, ramp(0.47f, 0.60f, crust));
    }
    v3 r = d - n * (2.0f * dot(d, n));
    r.y = fmaxf(fabsf(r.y), 0.01f);
    r = unit(r);
    float graze = 1.0f - clamp(-dot(d, n), 0.0f, 1.0f), g2 = graze * graze;
    float fresnel = 0.03f + 0.87f * g2 * g2 * graze;
    v3 mirror;
    Hit hit = march(w, p + V(0.0f, 0.02f, 0.0f), r, 120.0f, 56);
    if (hit.kind == HIT_LAND) {
        mirror = air(w, p, r, hit.t + t, lit_land(w, p + r * hit.t, hit.t + t));
    } else if (hit.kind == HIT_OBJECT) {
        mirror = air(w, p, r, hit.t + t, lit_object(w, hit, p, r));
    } else {
        mirror = sky_colour(w, r);
    }
    v3 c = mix(body, mirror, fresnel);
    float glint = fmaxf(dot(r, vec(w, P_SUN)), 0.0f);
    glint = glint * glint;
    glint = glint * glint;
    glint = glint * glint;
    glint = glint * glint;
    c = c + vec(w, P_C_SUN) * (0.5f * powf(glint, 12.0f));
    float foam = (1.0f - ramp(0.06f, 0.34f, depth + 0.25f * (a - 0.5f))) * (1.0f - ramp(40.0f, 120.0f, t));
    return mix(c, light * 0.85f, 0.55f * foam);
}

// Linear colour along a ray; t: distance to the surface, 0 for the sky.
DEV v3 trace(const World& w, v3 o, v3 d, float* t) {
    Hit hit = march(w, o, d, TERRAIN_FAR, 220);
    *t = 0.0f;
    if (hit.kind == HIT_SKY) return mix(sky_colour(w, d), haze(w, d), d.y < 0.0f ? ramp(0.0f, 0.05f, -d.y) : 0.0f);
    *t = hit.t;
    v3 c;
    if (hit.kind == HIT_LAND) {
        c = lit_land(w, o + d * hit.t, hit.t);
    } else if (hit.kind == HIT_OBJECT) {
        c = lit_object(w, hit, o, d);
    } else {
        c = lit_water(w, o, d, hit.t);
    }
    v3 fogged = air(w, o, d, hit.t, c);
    return mix(fogged, sky_colour(w, d), ramp(0.80f * TERRAIN_FAR, 0.99f * TERRAIN_FAR, hit.t));
}
DEV float shown(float x) {  // soft shoulder above 0.7, then the sRGB curve, about
    x = x < 0.7f ? fmaxf(x, 0.0f) : 0.7f + 0.3f * (1.0f - expf(-(x - 0.7f) / 0.3f));
    return powf(x, 1.0f / 2.2f);
}
DEV v3 shown(v3 c) { return V(shown(c.x), shown(c.y), shown(c.z)); }

struct Camera {
    v3 o;         // y up, moved into the first period
    v3 x, y, z;   // camera axes in the world, y up
    const float* k;  // fx, fy, cx, cy
};
// pose: row-major camera-to-world, OpenCV axes with world +y down.
DEV Camera camera(const float* m, const float* k) {
    Camera c;
    c.o = V(m[3] - PERIOD * floorf(m[3] / PERIOD), -m[7], m[11] - PERIOD * floorf(m[11] / PERIOD));
    c.x = V(m[0], -m[4], m[8]);
    c.y = V(m[1], -m[5], m[9]);
    c.z = V(m[2], -m[6], m[10]);
    c.k = k;
    return c;
}
// Direction through a point of the picture; cosine: to the optical axis.
DEV v3 ray(const Camera& c, float px, float py, float* cosine) {
    float u = (px - c.k[2]) / c.k[0], v = (py - c.k[3]) / c.k[1];
    float s = 1.0f / sqrtf(1.0f + u * u + v * v);
    *cosine = s;
    return unit((c.x * u + c.y * v + c.z) * s);
}

struct RenderJob {
    const float *params, *height, *surface, *cells;
    const int64_t* index;  // [M] which world
    const float* poses;    // [M, 4, 4]
    const float* k;        // [M, 4]
    uint8_t* rgb;          // [M, Y, X, 3]
    float* inverse;        // [M, Y, X]
    int width, height_px, side;
    MEMBER void operator()(int64_t i) const {
        int64_t area = (int64_t)width * height_px, m = i / area, n = index[m];
        int k2 = (int)(i - m * area), x, y;
        if (width % 8 == 0 && height_px % 4 == 0) {  // a warp covers 8 × 4 pixels
            int tile = k2 / 32, in = k2 % 32, across = width / 8;
            x = (tile % across) * 8 + in % 8;
            y = (tile / across) * 4 + in / 8;
        } else {
            x = k2 % width;
            y = k2 / width;
        }
        World w = {params + n * PARAM_COUNT, height + n * MAP * MAP, surface + n * MAP * MAP * 4,
                   cells + n * GRID_MAX * GRID_MAX * CELL_FLOATS};
        Camera c = camera(poses + m * 16, k + m * 4);
        v3 sum = V(0.0f, 0.0f, 0.0f);
        float inv_side = 1.0f / (float)side, nearest = 0.0f, total = 0.0f, count = 0.0f;
        for (int b = 0; b < side; b++) {
            for (int a = 0; a < side; a++) {
                float cosine, t;
                v3 d = ray(c, (float)x + ((float)a + 0.5f) * inv_side, (float)y + ((float)b + 0.5f) * inv_side, &cosine);
                sum = sum + shown(trace(w, c.o, d, &t));
                if (t <= 0.0f) continue;
                float inv = 1.0f / (t * cosine);
                if (inv > 1.1f * nearest) {  // a surface clearly in front of what was seen so far
                    nearest = total = inv;
                    count = 1.0f;
                } else if (inv > 0.9f * nearest) {
                    nearest = fmaxf(nearest, inv);
                    total += inv;
                    count += 1.0f;
                }
            }
        }
        int64_t out = m * area + (int64_t)y * width + x;
        float scale = 255.0f * inv_side * inv_side;
        rgb[out * 3] = (uint8_t)(clamp(sum.x * scale, 0.0f, 255.0f) + 0.5f);
        rgb[out * 3 + 1] = (uint8_t)(clamp(sum.y * scale, 0.0f, 255.0f) + 0.5f);
        rgb[out * 3 + 2] = (uint8_t)(clamp(sum.z * scale, 0.0f, 255.0f) + 0.5f);
        inverse[out] = count > 0.0f ? total / count : 0.0f;
    }
};
