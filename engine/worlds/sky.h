// What stands at infinity: gradient sky, sun, moon, stars, clouds and far mountains.
#pragma once
#include "terrain.h"

DEV float towards(v3 a, v3 b) {  // cosine of the angle between headings
    float k = length2(a.x, a.z) * length2(b.x, b.z);
    return k < 1e-9f ? 0.0f : (a.x * b.x + a.z * b.z) / k;
}
// Colour that distance fades to, in direction d: the sky just above the horizon.
DEV v3 haze(const World& w, v3 d) {
    float k = fmaxf(towards(d, vec(w, P_SUN)), 0.0f);
    return mix(vec(w, P_C_HORIZON), vec(w, P_C_HALO), 0.42f * k * k * k * (num(w, P_MOON) > 0.5f ? 0.3f : 1.0f));
}
DEV v3 gradient(const World& w, v3 d) {
    float up = fmaxf(d.y, 0.0f);
    v3 sky = mix(haze(w, d), vec(w, P_C_ZENITH), 1.0f - expf(-3.2f * up));
    float k = fmaxf(dot(d, vec(w, P_SUN)), 0.0f), k4 = k * k * k * k, k16 = k4 * k4 * k4 * k4;
    float glow = 0.30f * k4 + 0.35f * k16 + 0.5f * k16 * k16 * k16 * k16;
    return mix(sky, vec(w, P_C_HALO), clamp(glow, 0.0f, 0.85f) * (num(w, P_MOON) > 0.5f ? 0.45f : 1.0f));
}
DEV float stars(const World& w, v3 d) {
    float x = atan2f(d.x, d.z) * (128.0f / 6.2831853f) * 0.75f, y = asinf(clamp(d.y, -1.0f, 1.0f)) * 20.0f;
    float bx = floorf(x), by = floorf(y);
    uint32_t h = hash((uint32_t)(int)bx, (uint32_t)(int)by, seed_of(w.p) + 9u);
    if (uniform(h) > 0.30f) return 0.0f;
    float ox = 0.25f + 0.5f * uniform(h, 1u, 2u), oy = 0.25f + 0.5f * uniform(h, 3u, 4u);
    float dx = (x - bx - ox) * 0.0654f * sqrtf(fmaxf(1.0f - d.y * d.y, 0.0f)), dy = (y - by - oy) * 0.05f;
    float r = 0.0028f + 0.0022f * uniform(h, 5u, 6u);
    return expf(-(dx * dx + dy * dy) / (r * r)) * mix(0.35f, 1.0f, uniform(h, 7u, 8u));
}
DEV float cloud_noise(const World& w, float x, float z) {
    uint32_t s = seed_of(w.p) + 31u;
    float n = 0.0f, a = 0.54f, f = 1.0f;
    for (int o = 0; o < 4; o++) {
        n += a * value_noise(x * f, z * f, 1024, s + (uint32_t)o);
        a *= 0.46f;
        f *= 2.1f;
    }
    return n;
}
DEV v3 clouds(const World& w, v3 d, v3 sky) {
    float cover = num(w, P_CLOUD);
    if (cover <= 0.0f || d.y < 0.015f) return sky;
    float k = 1.1f / (d.y + 0.10f), x = d.x * k + 500.0f, z = d.z * k + 500.0f;
    float edge = 0.80f - 0.52f * cover;
    float n = cloud_noise(w, x, z);
    float a = ramp(edge, edge + 0.16f, n) * ramp(0.015f, 0.16f, d.y);
    if (a <= 0.0f) return sky;
    v3 s = vec(w, P_SUN);
    float back = cloud_noise(w, x + 0.22f * s.x, z + 0.22f * s.z);  // thinner towards the sun: lit
    float lit = clamp(0.62f + 2.6f * (n - back) - 0.9f * (n - edge - 0.12f), 0.0f, 1.0f);
    v3 c = mix(vec(w, P_C_CLOUD_DARK), vec(w, P_C_CLOUD), lit);
    float near = fmaxf(dot(d, s), 0.0f);
    c = c + vec(w, P_C_HALO) * (0.25f * near * near * near * near * near * near * (1.0f - a * 0.6f));
    return mix(sky, c, a * 0.92f);
}
DEV v3 disc(const World& w, v3 d, v3 sky) {
    float r = num(w, P_DISC);
    if (r <= 0.0f) return sky;
    v3 s = vec(w, P_SUN);
    float angle = acosf(clamp(dot(d, s), -1.0f, 1.0f));
    float a = 1.0f - ramp(r * 0.92f, r * 1.08f, angle);
    if (a <= 0.0f) return sky;
    v3 c = mix(vec(w, P_C_HALO) * 1.25f, V(1.35f, 1.3f, 1.2f), 0.6f);
    if (num(w, P_MOON) > 0.5f) {
        v3 q = (d - s) * (1.0f / r);
        float spots = value_noise(q.x * 2.3f + 40.0f, q.y * 2.3f + 40.0f, 64, seed_of(w.p) + 5u);
        c = V(0.95f, 0.97f, 1.0f) * (0.78f + 0.22f * ramp(0.35f, 0.6f, spots));
    }
    return mix(sky, c, a);
}
DEV float skyline(const World& w, float turn, int layer) {
    uint32_t s = seed_of(w.p) + 61u + 7u * (uint32_t)layer;
    float sum = 0.0f, a = 0.55f;
    int f = layer ? 8 : 16;
    for (int o = 0; o < 5; o++) {
        float n = gradient_noise(turn * (float)f, 0.5f, f, 1 << 20, s + (uint32_t)o);
        sum += a * (1.0f - 2.4f * fabsf(n));
        a *= 0.5f;
        f *= 2;
    }
    return clamp(0.30f + 0.62f * sum, 0.04f, 1.2f);
}
// Two layers of mountains by direction: infinitely far, so they tell where one looks.
DEV v3 mountains(const World& w, v3 d, v3 sky) {
    if (d.y > 0.45f || d.y < -0.02f) return sky;
    float turn = atan2f(d.x, d.z) * 0.15915494f + 0.5f, flat = length2(d.x, d.z);
    float y = d.y / fmaxf(flat, 1e-4f), blur = 0.0035f;
    for (int layer = 1; layer >= 0; layer--) {
        float tall = num(w, P_FAR_HEIGHT + layer);
        if (tall <= 0.0f) continue;
        float h = skyline(w, turn, layer), top = h * tall;
        if (y > top + blur) continue;
        float side = (skyline(w, turn + 0.004f, layer) - h) * tall / 0.025f;  // slope of the outline
        float sunny = clamp(0.5f + 0.9f * side * (vec(w, P_SUN).x * d.z - vec(w, P_SUN).z * d.x), 0.0f, 1.0f);
        v3 rock = vec(w, P_C_FAR) * mix(0.72f, 1.12f, sunny);
        float snow = num(w, P_FAR_SNOW) * ramp(0.50f, 0.72f, y / tall + 0.25f * (h - 0.5f));
        rock = mix(rock, vec(w, P_C_SUN) * mix(0.55f, 0.9f, sunny) + vec(w, P_C_AMBIENT) * 0.5f, 0.8f * snow);
        float air = mix(layer ? 0.62f : 0.40f, 0.96f, 1.0f - ramp(0.0f, 0.85f * tall, y));
        v3 c = mix(rock, haze(w, d), air);
        sky = mix(c, sky, ramp(top - blur, top + blur, y));
    }
    return sky;
}
DEV_CALL v3 sky_colour(const World& w, v3 d) {
    v3 c = gradient(w, d);
    float dark = num(w, P_STARS);
    if (dark > 0.0f && d.y > 0.0f) c = c + V(1.0f, 0.97f, 0.9f) * (dark * stars(w, d) * ramp(0.02f, 0.2f, d.y));
    c = disc(w, d, c);
    c = clouds(w, d, c);
    return mountains(w, d, c);
}
