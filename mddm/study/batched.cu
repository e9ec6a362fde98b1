// Molecular dynamics of many systems side by side, each of them a block of threads on a GPU.
//
// Compiled as C++ it is the same on a processor, where a block is a loop.  See batched.py, which
// says what the arguments are.

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ON_DEVICE __device__ __forceinline__
#define EACH(i) for (int i = threadIdx.x; i < n; i += blockDim.x)
#define SYNC __syncthreads()
#define ANY(flag) __syncthreads_or(flag)
#define FIRST (threadIdx.x == 0)
#else
#define ON_DEVICE inline
#define EACH(i) for (int i = 0; i < n; i++)
#define SYNC
#define ANY(flag) (flag)
#define FIRST true
struct float4 { float x, y, z, w; };
#endif

// Sizes are given to the compiler: MOST particles of a system, NEAR neighbours of one of them, PIECES
// of a potential's table, THREADS of a block.

struct Batch {
    int n_systems, n;
    float box, skin, time_step, drag;
    const float4 *forces, *energies;        // (n_systems, PIECES), of F(r) / r and U(r)
    const float *shapes;                    // (n_systems, 4): r_core^2, r_cut^2, U and F at r_core
    float *x, *v, *f;                       // (n_systems, 3, n)
    const float *temperatures;              // (n_systems, 2): at the first and the last step
    const int *steps;                       // (n_systems, 3): before, now (-1: leave alone), a sample
    const uint32_t *seeds;                  // (n_systems, 2)
    float *reference;                       // (n_systems, 3, n)
    uint64_t *near;                         // (n_systems, NEAR / 4, n), four neighbours in each
    double *sums;                           // (n_systems, 4): temperatures, pressures, samples, energy
    int *overflow;                          // (n_systems,)
    float descent;                          // above 0: go down the forces, as far as that at most
};

struct Shared {
    float x[3][MOST];
    float4 table[PIECES];
    float parts[4][32];
};

// Philox 4x32-10: Salmon et al., SC 2011.
ON_DEVICE void random(uint32_t c[4], uint32_t a, uint32_t b) {
    for (int round = 0; round < 10; round++) {
        uint64_t p = (uint64_t)0xD2511F53u * c[0], q = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(q >> 32) ^ c[1] ^ a, (uint32_t)q,
                            (uint32_t)(p >> 32) ^ c[3] ^ b, (uint32_t)p};
        for (int k = 0; k < 4; k++) c[k] = next[k];
        a += 0x9E3779B9u;
        b += 0xBB67AE85u;
    }
}

// What is added to a small number and taken away again rounds it.
ON_DEVICE float nearest(float value) {
    const float round = 12582912.0f;
#ifdef __CUDACC__
    return __fsub_rn(__fadd_rn(value, round), round);
#else
    return std::nearbyint(value);
#endif
}

ON_DEVICE float per_root(float value) {
#ifdef __CUDACC__
    return rsqrtf(value);
#else
    return 1 / sqrtf(value);
#endif
}

ON_DEVICE float wrapped(float value, float box) {
    value -= box * floorf(value / box);
    return value < box ? value : 0.0f;
}

// Add up some numbers of all particles; every thread gets the sums.
template <int COUNT> ON_DEVICE void add_up(float (&sums)[COUNT], Shared &shared) {
#ifdef __CUDACC__
    for (int k = 0; k < COUNT; k++)
        for (int apart = 16; apart; apart /= 2) sums[k] += __shfl_xor_sync(~0u, sums[k], apart);
    SYNC;
    if (threadIdx.x % 32 == 0)
        for (int k = 0; k < COUNT; k++) shared.parts[k][threadIdx.x / 32] = sums[k];
    SYNC;
    for (int k = 0; k < COUNT; k++) {
        sums[k] = threadIdx.x % 32 < blockDim.x / 32 ? shared.parts[k][threadIdx.x % 32] : 0.0f;
        for (int apart = 16; apart; apart /= 2) sums[k] += __shfl_xor_sync(~0u, sums[k], apart);
    }
#endif
}

struct System {
    const Batch &all;
    Shared &shared;
    int n;
    float box, per_box, core2, cut2, core_energy, core_force, per_piece;
    float *x, *v, *f, *reference;
    uint64_t *near;

    ON_DEVICE System(const Batch &all, Shared &shared, int which) : all(all), shared(shared) {
        n = all.n, box = all.box, per_box = 1 / box;
        const float *shape = all.shapes + 4 * which;
        core2 = shape[0], cut2 = shape[1], core_energy = shape[2], core_force = shape[3];
        per_piece = PIECES / (cut2 - core2);
        x = all.x + 3L * n * which, v = all.v + 3L * n * which, f = all.f + 3L * n * which;
        reference = all.reference + 3L * n * which;
        near = all.near + (long)(NEAR / 4) * n * which;
    }

    ON_DEVICE float apart(int i, int j, float (&d)[3]) const {
        float s = 0;
        for (int axis = 0; axis < 3; axis++) {
            d[axis] = shared.x[axis][i] - shared.x[axis][j];
            d[axis] -= box * nearest(d[axis] * per_box);
            s += d[axis] * d[axis];
        }
        return s;
    }

    // Every particle's neighbours within the cut-off and the skin; whether they were too many.
    ON_DEVICE int list(int *counts) {
        float reach = sqrtf(cut2) + all.skin, d[3];
        int most = 0;
        EACH(i) {
            int count = 0;
            uint64_t four = 0;
            for (int j = 0; j < n; j++)
                if (apart(i, j, d) < reach * reach && i != j) {
                    four |= (uint64_t)j << 16 * (count % 4);
                    count++;
                    if (count % 4 == 0) {
                        if (count <= NEAR) near[(count / 4 - 1) * n + i] = four;
                        four = 0;
                    }
                }
            most = count > most ? count : most;
            // The last four are filled up with the particle itself.
            for (int k = count; k % 4; k++) four |= (uint64_t)i << 16 * (k % 4);
            if (count % 4 && count < NEAR) near[count / 4 * n + i] = four;
            counts[i] = count < NEAR ? (count + 3) / 4 : NEAR / 4;
            for (int axis = 0; axis < 3; axis++) reference[axis * n + i] = shared.x[axis][i];
        }
        return most > NEAR;
    }

    ON_DEVICE float look_up(const float4 *table, float s) const {
        float place = fmaxf(fminf(s, cut2) - core2, 0) * per_piece;
        int piece = (int)place < PIECES ? (int)place : PIECES - 1;
        float t = place - piece;
        float4 c = table[piece];
        return ((c.x * t + c.y) * t + c.z) * t + c.w;
    }

    // The force on a particle, and the sum of F r over its bonds.  Beyond the cut-off it is zero,
    // where the table ends.
    ON_DEVICE float pull(int i, int count, float (&force)[3]) const {
        float virial = 0;
        force[0] = force[1] = force[2] = 0;
#pragma unroll 1
        for (int k = 0; k < count; k++) {
            const uint64_t four = near[k * n + i];
            float s[4], g[4], d[4][3];
            for (int one = 0; one < 4; one++) s[one] = apart(i, (four >> 16 * one) & 0xffff, d[one]);
            for (int one = 0; one < 4; one++) g[one] = look_up(shared.table, s[one]);
            // Seldom, and a branch for each would keep them from being computed together.
            if (fminf(fminf(s[0], s[1]), fminf(s[2], s[3])) < core2)
                for (int one = 0; one < 4; one++)
                    if (s[one] < core2) g[one] = core_force * per_root(s[one] + 1e-12f);
            for (int one = 0; one < 4; one++) {
                for (int axis = 0; axis < 3; axis++) force[axis] += g[one] * d[one][axis];
                virial += g[one] * s[one];
            }
        }
        return virial;
    }

    ON_DEVICE float energy(int i, int count, const float4 *table) const {
        float sum = 0, d[3];
        for (int k = 0; k < 4 * count; k++) {
            int j = (near[k / 4 * n + i] >> 16 * (k % 4)) & 0xffff;
            float s = apart(i, j, d);
            if (j == i || s >= cut2) continue;
            sum += s < core2 ? core_energy + core_force * (sqrtf(core2) - sqrtf(s))
                             : look_up(table, s);
        }
        return sum / 2;
    }
};

ON_DEVICE void run(const Batch &all, Shared &shared, int *counts, int which) {
    System system(all, shared, which);
    const int n = all.n, before = all.steps[3 * which], steps = all.steps[3 * which + 1];
    const int every = all.steps[3 * which + 2];
    if (steps < 0) return;
    const float half = all.time_step / 2, volume = all.box * all.box * all.box;
    const float begin = all.temperatures[2 * which], end = all.temperatures[2 * which + 1];
    for (int axis = 0; axis < 3; axis++) EACH(i) shared.x[axis][i] = system.x[axis * n + i];
#ifdef __CUDACC__
    for (int k = threadIdx.x; k < PIECES; k += blockDim.x)
#else
    for (int k = 0; k < PIECES; k++)
#endif
        shared.table[k] = all.forces[(long)PIECES * which + k];
    SYNC;
    int overflow = ANY(system.list(counts));
    double hot = 0, pressed = 0, samples = 0;
    for (int step = 1; step <= steps && !overflow; step++) {
        int far = 0;
        SYNC;
        EACH(i) {
            float moved2 = 0;
            for (int axis = 0; axis < 3; axis++) {
                int at = axis * n + i;
                float speed = system.v[at] + half * system.f[at];
                float way = all.time_step * speed;
                if (all.descent > 0) {
                    float most = all.descent;
                    way = fminf(fmaxf(most / 30 * system.f[at], -most), most);
                    speed = 0;
                }
                float x = wrapped(shared.x[axis][i] + way, all.box);
                system.v[at] = speed;
                shared.x[axis][i] = x;
                float moved = x - system.reference[at];
                moved -= all.box * nearest(moved * system.per_box);
                moved2 += moved * moved;
            }
            far |= moved2 > all.skin * all.skin / 4;
        }
        if (ANY(far)) overflow = ANY(system.list(counts));
        const float target = begin + (end - begin) * step / steps;
        const float width = all.descent > 0 ? 0 : sqrtf(24 * all.drag / all.time_step * target);
        const float drag = all.descent > 0 ? 0 : all.drag;
        float noise[3] = {0, 0, 0}, sums[2] = {0, 0};
        EACH(i) {
            float force[3];
            sums[1] += system.pull(i, counts[i], force);
            uint32_t c[4] = {(uint32_t)(before + step), (uint32_t)i, 0, 0};
            random(c, all.seeds[2 * which], all.seeds[2 * which + 1]);
            for (int axis = 0; axis < 3; axis++) {
                int at = axis * n + i;
                float kick = width * ((c[axis] >> 8) * (1.0f / (1 << 24)) - 0.5f);
                noise[axis] += kick;
                system.f[at] = force[axis] - drag * system.v[at] + kick;
            }
        }
        // Without its mean the noise leaves the centre of mass alone.
        add_up(noise, shared);
        EACH(i) for (int axis = 0; axis < 3; axis++) {
            int at = axis * n + i;
            system.f[at] -= noise[axis] / n;
            if (all.descent <= 0) system.v[at] += half * system.f[at];
            sums[0] += system.v[at] * system.v[at];
        }
        if (step % every == 0) {
            add_up(sums, shared);
            float kinetic = sums[0] / (3 * n - 3);
            hot += kinetic;
            pressed += (n * kinetic + sums[1] / 6) / volume;
            samples += 1;
        }
    }
    float sum[1] = {0};
    EACH(i) sum[0] += system.energy(i, counts[i], all.energies + (long)PIECES * which);
    add_up(sum, shared);
    for (int axis = 0; axis < 3; axis++) EACH(i) system.x[axis * n + i] = shared.x[axis][i];
    if (FIRST) {
        double *sums = all.sums + 4 * which;
        sums[0] += hot, sums[1] += pressed, sums[2] += samples, sums[3] = sum[0] / n;
        all.overflow[which] = overflow;
    }
}

#ifdef __CUDACC__
__global__ void __launch_bounds__(THREADS, 1024 / THREADS) run_all(Batch all) {
    __shared__ Shared shared;
    __shared__ int counts[MOST];
    run(all, shared, counts, blockIdx.x);
}
#endif

// Returns 0, or CUDA's code of an error.
extern "C" int batched_run(const Batch *all) {
#ifdef __CUDACC__
    run_all<<<all->n_systems, THREADS>>>(*all);
    return (int)cudaGetLastError();
#else
#pragma omp parallel for schedule(dynamic)
    for (int which = 0; which < all->n_systems; which++) {
        Shared shared;
        int counts[MOST];
        run(*all, shared, counts, which);
    }
    return 0;
#endif
}
