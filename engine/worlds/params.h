// The numbers that make a world: name and how many floats. Python reads this list too (parameters.py).
// Colours are linear RGB, lengths metres, directions unit with y UP (inside these files up is up).
#pragma once

#define WORLD_PARAMS(X)                                                                             \
    X(SEED, 1)        /* integer below 2^24: feeds every hash */                                    \
    X(BIOME, 1)       /* row of BIOMES */                                                           \
    X(TIME, 1)        /* row of TIMES */                                                            \
    X(WEATHER, 1)     /* row of WEATHERS */                                                         \
    X(BASE_FREQ, 1)   /* hills per period, integer */                                               \
    X(RELIEF, 1)      /* metres between deep valley and top, about */                               \
    X(RIDGE, 1)       /* 0 rolling … 1 sharp ridges */                                              \
    X(GAIN, 1)        /* amplitude of the next octave */                                            \
    X(WARP, 1)        /* domain warp, share of a hill */                                            \
    X(TERRACE, 1)     /* height of a terrace, 0: none */                                            \
    X(FLATTEN, 1)     /* below this share of the relief the land is squeezed flat */                \
    X(DUNE, 1)        /* share of wind-blown dunes */                                               \
    X(WATER, 1)       /* water level, -1000: dry */                                                 \
    X(C_LOW, 3) X(C_MID, 3) X(C_HIGH, 3) X(C_STEEP, 3) X(C_SHORE, 3) X(C_ACCENT, 3)                 \
    X(ACCENT, 1)      /* share of ground with flowers */                                            \
    X(ROWS, 1)        /* share of planted rows */                                                   \
    X(PATH, 1)        /* how worn the trodden paths are */                                          \
    X(STREET, 1)      /* every so many cells a street, 0: none */                                   \
    X(TIER_LOW, 1) X(TIER_HIGH, 1)                                                                  \
    X(STEEP, 1)       /* normal's y below which the ground is rock */                               \
    X(SNOW, 1)        /* 0 none … 1 everything level is white */                                    \
    X(C_WATER, 3) X(C_SHALLOW, 3)                                                                   \
    X(WATER_GLOW, 1)  /* lava shines by itself */                                                   \
    X(GRID, 1)        /* object cells per period side, at most 64 */                                \
    X(DENSITY, 1) X(CLUSTER, 1)                                                                     \
    X(OBJECT, 5)      /* shape of each kind, 0: none */                                             \
    X(SHARE, 5)       /* cumulative probability of the kinds */                                     \
    X(SIZE, 5)        /* height of each kind in metres */                                           \
    X(C_LEAF, 3) X(C_LEAF2, 3) X(C_WOOD, 3) X(C_STONE, 3) X(C_ROOF, 3) X(C_WALL, 3) X(C_GLOW, 3)    \
    X(GLOW, 1)        /* how much lamps, windows and crystals shine */                              \
    X(SUN, 3)         /* towards the sun or the moon */                                             \
    X(C_SUN, 3) X(C_AMBIENT, 3)                                                                     \
    X(C_ZENITH, 3) X(C_HORIZON, 3) X(C_HALO, 3) X(C_CLOUD, 3) X(C_CLOUD_DARK, 3)                    \
    X(CLOUD, 1)       /* cover 0…1 */                                                               \
    X(STARS, 1)                                                                                     \
    X(MOON, 1)        /* 1: the light is a moon */                                                  \
    X(DISC, 1)        /* angular radius of sun or moon, 0: hidden */                                \
    X(FOG, 1)         /* per metre */                                                               \
    X(MIST, 1)        /* density of the ground layer, per metre */                                  \
    X(MIST_TOP, 1) X(MIST_FALL, 1) /* height, and fall-off in metres */                             \
    X(C_FAR, 3)       /* far mountains */                                                           \
    X(FAR_HEIGHT, 2)  /* tangent of the elevation of the two layers */                              \
    X(FAR_SNOW, 1)

enum Param {
#define X(name, count) P_##name, P_##name##_LAST = P_##name + (count) - 1,
    WORLD_PARAMS(X)
#undef X
    PARAM_COUNT
};
