// Draw generated frames again from another pose: the one source of the window and of the page, each of which puts its
// own version line first. Shares of a picture count from its upper left corner; row 0 of every texture is the top.
struct Seen { mat3 turn; vec3 shift; float near; int steps; };
uniform Seen newest, before, older;
uniform sampler2D color_newest, color_before, color_older;
uniform sampler2D depth_newest, depth_before;
uniform float fade;      // weight of the newest frame over the one before
uniform float distant;   // weight of the older frame
in vec2 at;
out vec4 color;

const float AGREE = 0.18;   // of inverse depth: a ray this close to a surface has met it
const float RIM = 0.045;    // share of a picture over which its edge is faded

float inside(vec2 uv) {
    vec2 rim = smoothstep(vec2(0.0), vec2(RIM), min(uv, 1.0 - uv));
    return rim.x * rim.y;
}

// Catmull-Rom, the middle two taps of each side in one bilinear fetch
vec3 sharp(sampler2D source, vec2 uv) {
    vec2 size = vec2(textureSize(source, 0));
    vec2 p = uv * size - 0.5, f = fract(p), base = floor(p) + 0.5;
    vec2 w0 = f * (-0.5 + f * (1.0 - 0.5 * f)), w3 = f * f * (-0.5 + 0.5 * f);
    vec2 w1 = 1.0 + f * f * (-2.5 + 1.5 * f), w12 = 1.0 - w0 - w3;
    vec2 low = (base - 1.0) / size, middle = (base + (w12 - w1) / w12) / size, high = (base + 2.0) / size;
    vec3 sum = textureLod(source, middle, 0.0).rgb * w12.x * w12.y;  // of nine, the corners weigh under 1 %
    sum += textureLod(source, vec2(low.x, middle.y), 0.0).rgb * w0.x * w12.y;
    sum += textureLod(source, vec2(high.x, middle.y), 0.0).rgb * w3.x * w12.y;
    sum += textureLod(source, vec2(middle.x, low.y), 0.0).rgb * w12.x * w0.y;
    sum += textureLod(source, vec2(middle.x, high.y), 0.0).rgb * w12.x * w3.y;
    return clamp(sum / (w12.x * w12.y + (w0.x + w3.x) * w12.y + w12.x * (w0.y + w3.y)), 0.0, 1.0);
}

float depth_at(sampler2D depth, vec2 uv) {
    vec2 size = vec2(textureSize(depth, 0));
    return max(texelFetch(depth, ivec2(clamp(uv * size, vec2(0.0), size - 1.0)), 0).r, 0.0);
}

// Where in a frame this ray ends: (u, v, 1 met, 0.5 the background nearest to it, 0 nowhere)
vec3 find(Seen seen, sampler2D depth) {
    vec3 ray = seen.turn * vec3(at, 1.0);
    if (seen.steps == 0)
        return vec3(ray.xy / ray.z, ray.z > 0.0 ? 1.0 : 0.0);
    vec3 back = vec3(0.0);
    float back_depth = 1e9, q0 = seen.near, e0 = 1.0;
    for (int i = 0; i <= seen.steps; i++) {
        float q = seen.near * (1.0 - float(i) / float(seen.steps));
        vec3 p = ray + seen.shift * q;
        if (p.z <= 0.0) continue;
        vec2 uv = p.xy / p.z;
        float d = depth_at(depth, uv), e = q / p.z - d;
        if (e <= 0.0 && e0 > 0.0) {
            float qm = mix(q0, q, clamp(e0 / (e0 - e), 0.0, 1.0));
            p = ray + seen.shift * qm;
            vec2 met = p.xy / p.z;
            float dm = depth_at(depth, met), z = qm / p.z;
            if (abs(z - dm) <= AGREE * max(z, dm) + 1e-4) return vec3(met, 1.0);
        }
        if (d < back_depth) { back_depth = d; back = vec3(uv, 0.5); }
        q0 = q; e0 = e;
    }
    return back;
}

void main() {
    vec3 here = find(newest, depth_newest);
    float sure = here.z == 1.0 ? inside(here.xy) : 0.0;
    vec3 picture = sharp(color_newest, here.xy);
    if (sure == 1.0 && fade == 1.0) { color = vec4(picture, 1.0); return; }

    vec3 ray = newest.turn * vec3(at, 1.0);
    vec2 straight = ray.xy / max(ray.z, 1e-3);
    float beyond = length(max(abs(straight - 0.5) - 0.5, 0.0));
    vec2 mirrored = 1.0 - abs(1.0 - mod(straight, 2.0));
    vec3 base = textureLod(color_newest, mirrored, min(2.0 + 18.0 * beyond, 5.0)).rgb * (0.7 + 0.3 * exp(-5.0 * beyond));
    vec3 past = older.turn * vec3(at, 1.0);
    if (past.z > 0.0)
        base = mix(base, textureLod(color_older, past.xy / past.z, 1.0).rgb, inside(past.xy / past.z) * distant);
    if (here.z == 0.5)
        base = mix(base, textureLod(color_newest, here.xy, 1.5).rgb, inside(here.xy));
    vec3 then = find(before, depth_before);
    float known = then.z == 1.0 ? inside(then.xy) : 0.0;
    if (known > 0.0)
        base = mix(base, sharp(color_before, then.xy), known);
    color = vec4(mix(base, picture, sure * mix(1.0, fade, known)), 1.0);
}
