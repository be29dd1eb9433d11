// The things that stand in a world, as signed distance functions in units of their own height.
#pragma once
#include "vec.h"

enum Shape {
    NOTHING, ROUND_TREE, PINE, ROCK, COLUMN, HOUSE, CRYSTAL, TOWER, WALL, SPIRE, MUSHROOM, CACTUS, GATE,
    PALM, CYPRESS, LANTERN, ARCH, ACACIA, BUSH, SHAPE_COUNT
};
enum Material { LEAF, WOOD, STONE, PLASTER, ROOF, LAMP, FACADE, GEM, CAP, STEM, PAINT };

DEV float box(v3 p, float x, float y, float z) {
    float a = fabsf(p.x) - x, b = fabsf(p.y) - y, c = fabsf(p.z) - z;
    v3 out = V(fmaxf(a, 0.0f), fmaxf(b, 0.0f), fmaxf(c, 0.0f));
    return length(out) + fminf(fmaxf(a, fmaxf(b, c)), 0.0f);
}
DEV float ball(v3 p, float x, float y, float z, float r) { return length(p - V(x, y, z)) - r; }
DEV float ellipsoid(v3 p, float x, float y, float z) {
    float k0 = length(V(p.x / x, p.y / y, p.z / z));
    float k1 = length(V(p.x / (x * x), p.y / (y * y), p.z / (z * z)));
    return k1 < 1e-6f ? -fminf(x, fminf(y, z)) : k0 * (k0 - 1.0f) / k1;
}
DEV float pole(v3 p, float r, float y0, float y1) {  // upright cylinder
    float a = length2(p.x, p.z) - r, b = fabsf(p.y - 0.5f * (y0 + y1)) - 0.5f * (y1 - y0);
    return fminf(fmaxf(a, b), 0.0f) + length2(fmaxf(a, 0.0f), fmaxf(b, 0.0f));
}
DEV float rod(v3 p, v3 a, v3 b, float r) {  // capsule
    v3 pa = p - a, ba = b - a;
    float k = clamp(dot(pa, ba) / dot(ba, ba), 0.0f, 1.0f);
    return length(pa - ba * k) - r;
}
DEV float cone(v3 p, float y0, float h, float r) {
    float slant = (length2(p.x, p.z) - r * (1.0f - (p.y - y0) / h)) * h / length2(h, r);
    return fmaxf(slant, y0 - p.y);
}
DEV float melt(float a, float b, float k) {  // smooth union
    float h = clamp(0.5f + 0.5f * (b - a) / k, 0.0f, 1.0f);
    return mix(b, a, h) - k * h * (1.0f - h);
}
DEV void join(float* d, int* mat, float other, int m) {
    if (other < *d) {
        *d = other;
        *mat = m;
    }
}
DEV float prism6(v3 p, float r, float tip, float h) {  // six-sided, with a pointed end
    float x = fabsf(p.x), z = fabsf(p.z);
    float side = fmaxf(x * 0.8660254f + z * 0.5f, z) - r;
    return fmaxf(fmaxf(side, side * 0.62f + (p.y - tip) * (r / (h - tip)) * 0.9f), -p.y) * 0.9f;
}
DEV v3 lean(v3 p, float a, float b) { return V(p.x - a * p.y, p.y, p.z - b * p.y); }

// Radius in units of height: everything of the shape lies within it.
DEV float shape_radius(int type) {
    switch (type) {
        case ROUND_TREE: return 0.42f;
        case PINE: return 0.29f;
        case ROCK: return 0.80f;
        case COLUMN: return 0.20f;
        case HOUSE: return 0.74f;
        case CRYSTAL: return 0.46f;
        case TOWER: return 0.24f;
        case WALL: return 0.95f;
        case SPIRE: return 0.32f;
        case MUSHROOM: return 0.40f;
        case CACTUS: return 0.36f;
        case GATE: return 0.62f;
        case PALM: return 0.48f;
        case CYPRESS: return 0.15f;
        case LANTERN: return 0.12f;
        case ARCH: return 0.68f;
        case ACACIA: return 0.56f;
        case BUSH: return 0.85f;
        default: return 0.0f;
    }
}

DEV float rock(v3 p, float v) {
    v3 q = p - V(0.0f, 0.28f, 0.0f);
    float d = ellipsoid(q, 0.66f, 0.62f, 0.52f);
    for (int i = 0; i < 5; i++) {  // flat faces
        float a = 6.2832f * (v + 0.21f * (float)i), up = 0.15f + 0.75f * (float)(i % 3) * 0.5f;
        v3 n = unit(V(cosf(a), up, sinf(a)));
        d = fmaxf(d, dot(q, n) - 0.40f - 0.07f * sinf(9.0f * v + 2.0f * (float)i));
    }
    return d;
}
DEV float palm(v3 p, float v, int* mat) {
    float bend = 0.16f * (v - 0.3f);
    v3 q = V(p.x - bend * p.y * p.y, p.y, p.z);
    float d = fmaxf(length2(q.x, q.z) - mix(0.035f, 0.02f, p.y), fmaxf(p.y - 0.9f, -p.y)) * 0.9f;
    *mat = WOOD;
    v3 c = p - V(bend * 0.81f, 0.9f, 0.0f);
    float sector = 0.8975979f;  // a seventh of a turn
    float a = atan2f(c.z, c.x) + v * 6.0f;
    a = a - sector * floorf(a / sector + 0.5f);
    float r = length2(c.x, c.z);
    float along = r * cosf(a), across = r * sinf(a);
    float droop = c.y - 0.12f * along + 1.15f * along * along;  // leaves arch up, then hang
    float width = 0.085f * ramp(0.0f, 0.1f, along) * (1.0f - ramp(0.2f, 0.44f, along)) + 0.004f;
    float leaf = fmaxf(fmaxf(fabsf(droop) - 0.02f, fabsf(across) - width), along - 0.43f) * 0.62f;
    join(&d, mat, leaf, LEAF);
    join(&d, mat, length(c) - 0.035f, WOOD);
    return d;
}
DEV float house(v3 p, int* mat) {
    float d = box(p - V(0.0f, 0.11f, 0.0f), 0.50f, 0.40f, 0.34f);
    *mat = PLASTER;
    float slope = (fabsf(p.z) * 0.47f + (p.y - 0.93f) * 0.42f) * 1.58f;  // two pitches meeting in a ridge
    float roof = fmaxf(fmaxf(slope, -slope - 0.11f), fabsf(p.x) - 0.57f);
    float gable = fmaxf(fmaxf(slope + 0.04f, 0.5f - p.y), fabsf(p.x) - 0.50f);
    join(&d, mat, gable, PLASTER);
    join(&d, mat, fmaxf(roof, 0.46f - p.y), ROOF);
    join(&d, mat, box(p - V(0.28f, 0.82f, 0.14f), 0.05f, 0.2f, 0.05f), STONE);
    return d;
}
DEV float cactus(v3 p, float v) {
    float d = rod(p, V(0.0f, -0.1f, 0.0f), V(0.0f, 0.9f, 0.0f), 0.09f);
    float a = 0.35f + 0.2f * v;
    d = melt(d, rod(p, V(0.0f, a, 0.0f), V(0.26f, a + 0.03f, 0.0f), 0.055f), 0.04f);
    d = melt(d, rod(p, V(0.26f, a + 0.03f, 0.0f), V(0.27f, a + 0.32f, 0.0f), 0.06f), 0.03f);
    if (v > 0.3f) {
        d = melt(d, rod(p, V(0.0f, 0.36f, 0.0f), V(-0.23f, 0.38f, 0.0f), 0.05f), 0.04f);
        d = melt(d, rod(p, V(-0.23f, 0.38f, 0.0f), V(-0.24f, 0.6f, 0.0f), 0.055f), 0.03f);
    }
    return d;
}
DEV float crown(v3 p, float v) {
    float a = 0.13f + 0.06f * v;
    float d = ball(p, 0.0f, 0.68f, 0.0f, 0.29f);
    d = melt(d, ball(p, a, 0.54f, 0.06f, 0.20f), 0.07f);
    d = melt(d, ball(p, -0.13f, 0.58f, -a * 0.7f, 0.21f), 0.07f);
    return melt(d, ball(p, -0.03f, 0.55f, a, 0.18f), 0.07f);
}

// Distance to a shape standing on the origin, y up, height 1; v in 0…1 varies it. Sets the material.
DEV_CALL float shape(int type, v3 p, float v, int* mat) {
    float d = 1e3f;
    *mat = STONE;
    switch (type) {
        case ROUND_TREE:
            d = crown(p, v);
            *mat = LEAF;
            join(&d, mat, pole(p, 0.045f, -0.1f, 0.5f), WOOD);
            break;
        case PINE:
            d = cone(p, 0.60f, 0.40f, 0.155f);
            d = fminf(d, cone(p, 0.37f, 0.42f, 0.215f));
            d = fminf(d, cone(p, 0.14f, 0.44f, 0.275f));
            *mat = LEAF;
            join(&d, mat, pole(p, 0.035f, -0.1f, 0.3f), WOOD);
            break;
        case ROCK: d = rock(p, v); break;
        case COLUMN: {
            float h = v < 0.35f ? 0.45f + v : 0.88f;  // some are broken
            d = pole(p, 0.085f, -0.1f, h);
            d = fminf(d, box(p - V(0.0f, 0.0f, 0.0f), 0.13f, 0.06f, 0.13f));
            if (v >= 0.35f) d = fminf(d, box(p - V(0.0f, 0.92f, 0.0f), 0.135f, 0.05f, 0.135f));
            break;
        }
        case HOUSE: d = house(p, mat); break;
        case CRYSTAL:
            d = prism6(lean(p, 0.12f, 0.05f), 0.15f, 0.68f, 1.0f);
            d = fminf(d, prism6(lean(p, -0.45f, 0.2f * v), 0.095f, 0.4f, 0.62f));
            d = fminf(d, prism6(lean(p, 0.25f, -0.5f), 0.08f, 0.3f, 0.5f));
            d *= 0.85f;
            *mat = GEM;
            break;
        case TOWER:
            d = box(p - V(0.0f, 0.3f, 0.0f), 0.16f, 0.45f, 0.16f);
            d = fminf(d, box(p - V(0.0f, 0.8f, 0.0f), 0.12f, 0.14f + 0.05f * v, 0.12f));
            *mat = FACADE;
            break;
        case WALL:
            d = box(p - V(0.0f, 0.35f, 0.0f), 0.82f, 0.5f, 0.13f);
            d = fmaxf(d, -box(p - V(0.5f - v, 0.95f, 0.0f), 0.22f, 0.38f, 0.4f));
            d = fmaxf(d, -box(p - V(0.45f * v - 0.4f, 0.3f, 0.0f), 0.13f, 0.3f, 0.4f));
            break;
        case SPIRE: {
            float r = 0.22f * (1.0f - 0.62f * p.y) + 0.022f * sinf(p.y * 17.0f + 6.0f * v);
            d = fmaxf((length2(p.x - 0.05f * sinf(4.0f * p.y), p.z) - r) * 0.8f, p.y - 0.97f);
            break;
        }
        case MUSHROOM: {
            v3 q = p - V(0.0f, 0.70f, 0.0f);
            d = fmaxf(ellipsoid(q, 0.36f, 0.28f, 0.36f), -0.03f - q.y - 0.15f * length2(q.x, q.z));
            *mat = CAP;
            join(&d, mat, pole(p, 0.075f - 0.02f * p.y, -0.1f, 0.75f), STEM);
            break;
        }
        case CACTUS:
            d = cactus(p, v);
            *mat = LEAF;
            break;
        case GATE: {
            float rise = 0.16f * p.x * p.x;
            v3 q = V(fabsf(p.x) - 0.38f + 0.03f * p.y, p.y, p.z);
            d = pole(q, 0.042f, -0.2f, 0.92f);
            d = fminf(d, box(p - V(0.0f, 0.72f, 0.0f), 0.47f, 0.032f, 0.03f));
            *mat = PAINT;
            join(&d, mat, box(p - V(0.0f, 0.92f + rise, 0.0f), 0.56f, 0.045f, 0.06f) * 0.95f, ROOF);
            break;
        }
        case PALM: d = palm(p, v, mat); break;
        case CYPRESS:
            d = ellipsoid(p - V(0.0f, 0.53f, 0.0f), 0.135f, 0.47f, 0.135f);
            *mat = LEAF;
            join(&d, mat, pole(p, 0.02f, -0.1f, 0.2f), WOOD);
            break;
        case LANTERN:
            d = pole(p, 0.022f, -0.1f, 0.75f);
            *mat = WOOD;
            join(&d, mat, ball(p, 0.0f, 0.82f, 0.0f, 0.085f), LAMP);
            join(&d, mat, cone(p - V(0.0f, 0.88f, 0.0f), 0.0f, 0.12f, 0.11f), ROOF);
            break;
        case ARCH: {
            v3 q = V(length2(p.x, p.y + 0.05f) - 0.5f - 0.12f * v, 0.0f, p.z);
            d = (length2(q.x, q.z * 0.8f) - 0.15f + 0.02f * sinf(11.0f * p.x + 7.0f * p.y)) * 0.8f;
            break;
        }
        case ACACIA:
            d = ellipsoid(p - V(0.1f, 0.84f, 0.0f), 0.42f, 0.13f, 0.40f);
            d = fminf(d, ellipsoid(p - V(-0.17f, 0.70f, 0.1f), 0.28f, 0.10f, 0.26f));
            *mat = LEAF;
            join(&d, mat, rod(p, V(0.0f, -0.1f, 0.0f), V(0.07f, 0.8f, 0.0f), 0.03f), WOOD);
            join(&d, mat, rod(p, V(0.02f, 0.3f, 0.0f), V(-0.16f, 0.68f, 0.08f), 0.02f), WOOD);
            break;
        case BUSH:
            d = melt(ball(p, 0.12f, 0.3f, 0.0f, 0.46f), ball(p, -0.3f, 0.22f, 0.15f, 0.34f), 0.1f);
            *mat = LEAF;
            break;
        default: break;
    }
    return d;
}
