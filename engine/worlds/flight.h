// A player in a world: held commands, smoothed motion, no passing through ground or things. y is up here.
#pragma once
#include "view.h"

#define CANDIDATES 16
#define SUBSTEPS 4
#define FRAME_SECONDS 0.0625f
#define LAG 5.5f            // 1/s, first-order
#define TURN_MAX 1.2f       // rad/s
#define PITCH_MAX 1.0471976f
#define ROLL_MAX 0.5235988f
#define SPEED_MIN 0.1f      // m/s
#define SPEED_MAX 30.0f
#define BODY 0.45f          // metres kept from things
#define HOVER 0.6f          // metres kept from ground and water
#define START_FLOATS 8
#define THUMB_X 24
#define THUMB_Y 15

struct Dice {
    uint32_t seed, n;
    MEMBER float roll() { return uniform(hash(seed, n++, 0x51edu)); }
    MEMBER float between(float a, float b) { return mix(a, b, roll()); }
    MEMBER float sign() { return roll() < 0.5f ? -1.0f : 1.0f; }
};

// What a clip's player is like, all from the clip's seed.
struct Player {
    bool walks, rolls, still, looks, returns;
    float cruise, eye, rest_pitch, focal;  // m/s, m, rad, focal length / picture width
};
DEV Player player_of(uint32_t seed) {
    Dice d = {seed, 1000u};
    Player p;
    p.walks = d.roll() < 0.42f;
    p.rolls = !p.walks && d.roll() < 0.45f;
    float kind = d.roll();
    p.still = kind < 0.03f;
    p.looks = kind >= 0.03f && kind < 0.07f;
    p.returns = kind > 0.90f;
    float lo = d.roll() < 0.78f ? 1.0f : SPEED_MIN, hi = lo < 1.0f ? SPEED_MAX : 12.0f;
    p.cruise = expf(d.between(logf(lo), logf(hi)));
    if (p.walks) p.cruise = fminf(p.cruise, 9.0f);
    p.eye = d.roll() < 0.8f ? d.between(1.4f, 2.2f) : d.between(2.2f, 5.0f);
    p.rest_pitch = p.walks ? d.between(-0.08f, 0.02f) : d.between(-0.28f, 0.08f);
    float fov = d.between(50.0f, 95.0f) * 0.01745329f;
    p.focal = 0.5f * cosf(0.5f * fov) / sinf(0.5f * fov);
    return p;
}

DEV float floor_at(const World& w, float x, float z) { return fmaxf(ground(w, x, z), num(w, P_WATER)); }
DEV float to_things(const World& w, v3 p) {
    int mat;
    float d = 1e3f;
    for (int i = 0; i < 5; i++) {
        float x = i == 1 ? BODY : i == 2 ? -BODY : 0.0f, z = i == 3 ? BODY : i == 4 ? -BODY : 0.0f;
        d = fminf(d, object_distance(place_under(w, p.x + x, p.z + z), p, &mat));
    }
    return d;
}
DEV bool free_at(const World& w, v3 p) { return p.y - floor_at(w, p.x, p.z) >= HOVER - 1e-4f && to_things(w, p) >= BODY; }

// Camera-to-world, OpenCV axes: yaw about world down, then pitch about x (up is positive), then roll about z.
DEV void write_pose(float* m, v3 p, float yaw, float pitch, float roll) {
    float cy = cosf(yaw), sy = sinf(yaw), cp = cosf(pitch), sp = sinf(pitch), cr = cosf(roll), sr = sinf(roll);
    v3 a = V(cy, 0.0f, -sy), b = V(sy * sp, cp, cy * sp), c = V(sy * cp, -sp, cy * cp);
    v3 x = a * cr + b * sr, y = b * cr - a * sr;
    float out[16] = {x.x, y.x, c.x, p.x, x.y, y.y, c.y, -p.y, x.z, y.z, c.z, p.z, 0.0f, 0.0f, 0.0f, 1.0f};
    for (int i = 0; i < 16; i++) m[i] = out[i];
}

// A good start has contrast (mean change of grey per thumbnail cell), nothing at the nose, and room ahead: flat
// clean pictures have a full-size gradient near 0.01, so the coarse thumbnail tells blank from calm better.
// One candidate start: x, y, z, yaw, pitch, roll, verdict (1 good, below: how nearly), contrast.
struct ScoutJob {
    const float *params, *height, *surface, *cells;
    const int64_t *index, *seeds;
    float* starts;  // [B, CANDIDATES, START_FLOATS]
    int width, height_px;
    MEMBER void operator()(int64_t i) const {
        int64_t b = i / CANDIDATES, n = index[b];
        World w = {params + n * PARAM_COUNT, height + n * MAP * MAP, surface + n * MAP * MAP * 4,
                   cells + n * GRID_MAX * GRID_MAX * CELL_FLOATS};
        Player who = player_of((uint32_t)seeds[b]);
        Dice d = {(uint32_t)seeds[b], 5000u + 100u * (uint32_t)(i % CANDIDATES)};
        float x = d.roll() * PERIOD, z = d.roll() * PERIOD, yaw = d.between(-3.14159f, 3.14159f);
        float pitch = who.rest_pitch + (d.roll() < 0.12f ? d.between(-0.45f, 0.35f) : d.between(-0.08f, 0.08f));
        float roll = who.rolls && d.roll() < 0.25f ? d.between(-0.3f, 0.3f) : 0.0f;
        float high = who.walks ? who.eye : expf(d.between(0.2f, 3.1f)) + 0.5f * who.cruise;
        v3 p = V(x, floor_at(w, x, z) + high, z);
        float* s = starts + i * START_FLOATS;
        s[0] = p.x;
        s[1] = p.y;
        s[2] = p.z;
        s[3] = yaw;
        s[4] = pitch;
        s[5] = roll;
        s[6] = -1.0f;
        s[7] = 0.0f;
        if (!free_at(w, p)) return;
        look(w, who, p, s);
    }
    MEMBER void look(const World& w, const Player& who, v3 p, float* s) const {
        float m[16], k[4] = {who.focal * THUMB_X, who.focal * THUMB_X, 0.5f * THUMB_X, 0.5f * THUMB_Y};
        write_pose(m, p, s[3], s[4], s[5]);
        Camera c = camera(m, k);
        float row[THUMB_X], change = 0.0f, close = 0.0f, open = 0.0f;
        for (int y = 0; y < THUMB_Y; y++) {
            float left = 0.0f;
            for (int x = 0; x < THUMB_X; x++) {
                float cosine, t;
                v3 d = ray(c, (float)x + 0.5f, (float)y + 0.5f, &cosine);
                v3 rgb = shown(trace(w, c.o, d, &t));
                float grey = 0.299f * rgb.x + 0.587f * rgb.y + 0.114f * rgb.z;
                if (x > 0) change += fabsf(grey - left);
                if (y > 0) change += fabsf(grey - row[x]);
                left = row[x] = grey;
                if (t > 0.0f && t < 2.5f) close += 1.0f;
                if (t <= 0.0f || t > 25.0f) open += 1.0f;
            }
        }
        float area = (float)(THUMB_X * THUMB_Y);
        change /= area;
        close /= area;
        open /= area;
        bool good = change > 0.045f && close < 0.2f && open > 0.25f;
        s[6] = good ? 1.0f : 0.4f * fminf(change / 0.045f, 1.0f) + 0.3f * (1.0f - close) + 0.2f * open;
        s[7] = change;
    }
};

struct Command {
    v3 move;                     // right, up, forward in m/s, camera axes
    float turn, nod, tilt, left;  // rad/s of yaw, pitch, roll; seconds left
    bool nods, tilts;
};
DEV Command next_command(const Player& who, Dice& d, bool blocked) {
    Command c;
    c.move = V(0.0f, 0.0f, 0.0f);
    c.turn = c.nod = c.tilt = 0.0f;
    c.nods = c.tilts = false;
    c.left = d.between(0.2f, 2.6f);
    float pick = blocked ? d.between(0.50f, 0.82f) : d.roll();
    float speed = who.cruise * (d.roll() < 0.6f ? 1.0f : d.between(0.3f, 1.0f));
    float u = d.roll(), rate = d.sign() * mix(0.12f, TURN_MAX, u * u);
    if (who.looks) pick = d.between(0.70f, 1.0f) < 0.80f ? 0.60f : 0.93f;
    if (pick < 0.28f) {
        c.move.z = speed;
    } else if (pick < 0.55f) {
        c.move.z = speed;
        c.turn = rate;
    } else if (pick < 0.66f) {
        c.turn = rate;
    } else if (pick < 0.74f) {
        c.move.x = d.sign() * speed * 0.8f;
        if (d.roll() < 0.3f) c.turn = rate;
    } else if (pick < 0.80f) {
        c.move.z = -0.7f * speed;
    } else if (pick < 0.86f) {
        c.move.y = d.sign() * 0.7f * speed;
        if (d.roll() < 0.5f) c.move.z = 0.7f * speed;
    } else if (pick < 0.92f) {
        c.move = V(d.sign() * 0.7f * speed, 0.0f, 0.7f * speed);
    } else if (pick < 0.96f) {
        c.turn = d.roll() < 0.6f ? rate : 0.0f;
        c.nod = d.sign() * d.between(0.15f, 0.9f);
        c.nods = true;
    } else {
        c.left = d.between(0.5f, 4.0f);  // a rest
    }
    if (!who.walks && d.roll() < 0.25f) {
        c.nod = d.sign() * d.between(0.08f, 0.8f);
        c.nods = true;
    }
    if (c.nods) c.left = fminf(c.left, 1.3f);  // sky and bare ground teach little: soon back to the horizon
    if (who.rolls && d.roll() < 0.4f) {
        c.tilt = d.sign() * d.between(0.1f, 0.6f);
        c.tilts = true;
    }
    if (pick >= 0.96f) c.nod = c.tilt = 0.0f;
    return c;
}
// Rate that brings an angle's rate to zero before ±limit.
DEV float held_in(float rate, float angle, float limit) {
    float room = rate > 0.0f ? limit - angle : limit + angle;
    return rate * clamp(room * 4.0f, 0.0f, 1.0f);
}

struct Body {
    v3 p, v;  // world, y up
    float yaw, pitch, roll, turn, nod, tilt;
};
DEV float settle(float x, float target, float k) {  // towards the target, and really there in the end
    x = mix(x, target, k);
    return fabsf(x - target) < 0.004f ? target : x;
}
DEV void steer(Body& b, const Command& c, const Player& who, float dt) {
    float k = 1.0f - expf(-LAG * dt);
    bool rests = c.move.x == 0.0f && c.move.y == 0.0f && c.move.z == 0.0f && c.turn == 0.0f;
    float level = who.rest_pitch - b.pitch, calm = fabsf(level) < 0.4f ? 1.2f : 2.0f;
    float nod = c.nods ? c.nod : rests && calm < 2.0f ? 0.0f : clamp(calm * level, -0.5f * calm, 0.5f * calm);
    float tilt = c.tilts ? c.tilt : rests ? 0.0f : clamp(-1.5f * b.roll, -0.5f, 0.5f);
    b.turn = settle(b.turn, c.turn, k);
    b.nod = settle(b.nod, nod, k);
    b.tilt = settle(b.tilt, tilt, k);
    b.nod = held_in(b.nod, b.pitch, PITCH_MAX);
    b.tilt = held_in(b.tilt, b.roll, ROLL_MAX);
    b.yaw += b.turn * dt;
    b.pitch += b.nod * dt;
    b.roll += b.tilt * dt;
    float m[16];
    write_pose(m, b.p, b.yaw, who.walks ? 0.0f : b.pitch, who.walks ? 0.0f : b.roll);
    v3 x = V(m[0], -m[4], m[8]), up = V(-m[1], m[5], -m[9]), z = V(m[2], -m[6], m[10]);
    v3 goal = x * c.move.x + z * c.move.z + up * (who.walks ? 0.0f : c.move.y);
    v3 v = mix(b.v, goal, k);
    b.v = rests && length(v) < 0.02f ? V(0.0f, 0.0f, 0.0f) : v;
}
// Where the body may go; false when it is stopped.
DEV bool advance(const World& w, Body& b, const Player& who, float dt) {
    if (length(b.v) == 0.0f) return true;
    v3 v = b.v, from = b.p;
    float far_floor = floor_at(w, from.x + 0.7f * v.x, from.z + 0.7f * v.z);
    if (who.walks) {
        float here = floor_at(w, from.x + v.x * dt, from.z + v.z * dt) + who.eye;
        v.y = clamp(4.0f * (here - from.y), -6.0f, 6.0f);
    } else {
        float need = far_floor + 1.2f - (from.y + 0.7f * v.y), high = from.y - far_floor - 45.0f;
        if (need > 0.0f) v.y += fminf(need / 0.7f, 0.8f * length(b.v) + 0.5f);
        if (high > 0.0f) v.y -= fminf(high * 0.2f, 0.5f * length(b.v));
    }
    float fast = length(v);
    if (fast > SPEED_MAX) v = v * (SPEED_MAX / fast);
    for (int attempt = 0; attempt < 4; attempt++) {
        v3 step = attempt == 1 ? V(v.x, v.y, 0.0f) : attempt == 2 ? V(0.0f, v.y, v.z) : attempt == 3 ? V(0.0f, fmaxf(v.y, 0.0f), 0.0f) : v;
        v3 to = from + step * dt;
        float least = floor_at(w, to.x, to.z) + HOVER;
        if (to.y < least && least - to.y < 1.2f * length(v) * dt + 0.01f) to.y = least;
        float moved = length(to - from);
        if (moved > SPEED_MAX * dt) to = from + (to - from) * (SPEED_MAX * dt / moved);
        if (free_at(w, to)) {
            b.p = to;
            if (attempt) b.v = b.v * 0.8f;
            return attempt < 3;
        }
    }
    b.v = V(0.0f, 0.0f, 0.0f);
    return false;
}

struct FlightJob {
    const float *params, *height, *surface, *cells;
    const int64_t *index, *seeds;
    const float* starts;
    float* poses;       // [B, P, 4, 4]
    float* intrinsics;  // [B, P, 4]
    int frames, width, height_px;
    MEMBER void operator()(int64_t b) const {
        int64_t n = index[b];
        World w = {params + n * PARAM_COUNT, height + n * MAP * MAP, surface + n * MAP * MAP * 4,
                   cells + n * GRID_MAX * GRID_MAX * CELL_FLOATS};
        uint32_t seed = (uint32_t)seeds[b];
        Player who = player_of(seed);
        const float* s = starts + b * CANDIDATES * START_FLOATS;
        int best = 0;
        for (int i = 0; i < CANDIDATES && s[best * START_FLOATS + 6] < 1.0f; i++) {
            if (s[i * START_FLOATS + 6] > s[best * START_FLOATS + 6]) best = i;
        }
        s += best * START_FLOATS;
        Body body = {V(s[0], s[1], s[2]), V(0.0f, 0.0f, 0.0f), s[3], s[4], s[5], 0.0f, 0.0f, 0.0f};
        float* out = poses + b * frames * 16;
        int turn = 64, last = frames;  // frames of a half turn; last frame flown freely
        bool faces_back = who.returns && frames >= 2 * turn + 16 && seed % 2u == 0u;
        if (who.returns) last = (frames - (faces_back ? turn : 0) + 1) / 2;
        fly_on(w, who, seed, body, out, last);
        if (who.returns) go_back(out, last, faces_back ? turn : 0);
        float* k = intrinsics + b * frames * 4;
        float f = who.focal * (float)width;
        for (int i = 0; i < frames; i++) {
            k[i * 4] = k[i * 4 + 1] = f;
            k[i * 4 + 2] = 0.5f * (float)width;
            k[i * 4 + 3] = 0.5f * (float)height_px;
        }
    }
    MEMBER void fly_on(const World& w, const Player& who, uint32_t seed, Body body, float* out, int last) const {
        Dice d = {seed, 20000u};
        Command c = next_command(who, d, false);
        bool moving = d.roll() < 0.35f && !who.looks;
        if (moving) body.v = V(sinf(body.yaw), 0.0f, cosf(body.yaw)) * (0.7f * who.cruise);
        float dt = FRAME_SECONDS / (float)SUBSTEPS;
        for (int f = 0; f < last; f++) {
            write_pose(out + f * 16, body.p, body.yaw, body.pitch, body.roll);
            if (who.still) continue;
            for (int i = 0; i < SUBSTEPS; i++) {
                steer(body, c, who, dt);
                bool passed = advance(w, body, who, dt);
                c.left -= dt;
                if (c.left <= 0.0f || !passed) c = next_command(who, d, !passed);
            }
        }
    }
    // Frames last…: an optional half turn on the spot, then the same way back to the start.
    MEMBER void go_back(float* out, int last, int turn) const {
        for (int f = last; f < frames; f++) {
            int from = f < last + turn ? last - 1 : 2 * last + turn - 2 - f;
            if (from < 0) from = 0;
            float a = turn == 0 ? 0.0f : 3.1415927f * ramp(0.0f, (float)turn, (float)(f - last + 1));
            float c = cosf(a), s = sinf(a);
            const float* m = out + from * 16;
            float* o = out + f * 16;
            for (int j = 0; j < 4; j++) {
                float x = m[j], z = m[8 + j];
                bool turns = j < 3;
                o[j] = turns ? c * x + s * z : x;
                o[4 + j] = m[4 + j];
                o[8 + j] = turns ? c * z - s * x : z;
                o[12 + j] = m[12 + j];
            }
        }
    }
};
