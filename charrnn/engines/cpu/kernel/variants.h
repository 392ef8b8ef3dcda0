/* Variants of the kernel for instruction sets: variant.h is compiled once for each of them. */

#define QUOTE(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(features) QUOTE(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET QUOTE(clang attribute pop)
#else
#define BEGIN_TARGET(features) QUOTE(GCC push_options) QUOTE(GCC target(features))
#define END_TARGET QUOTE(GCC pop_options)
#endif

#define VARIANT portable
#include "variant.h"
#undef VARIANT

#if ON_X86

BEGIN_TARGET("avx2,fma")
#define VARIANT avx2
#define WITH_AVX2
#include "variant.h"
#undef WITH_AVX2
#undef VARIANT
END_TARGET

BEGIN_TARGET("avx2,fma,avxvnni")
#define VARIANT avxvnni
#define WITH_AVXVNNI
#include "variant.h"
#undef WITH_AVXVNNI
#undef VARIANT
END_TARGET

BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#define VARIANT avx512vnni
#define WITH_AVX512
#include "variant.h"
#undef VARIANT
END_TARGET

BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")
#define VARIANT avx512gfni
#define WITH_GFNI
#include "variant.h"
#undef VARIANT
END_TARGET

#if ON_X86_WITH_TILES
BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni,amx-tile,amx-int8")
#define VARIANT avx512amx
#define WITH_AMX
#include "variant.h"
#undef WITH_AMX
#undef VARIANT
END_TARGET
#endif

#undef WITH_GFNI
#undef WITH_AVX512

#elif ON_ARM

#if defined(__clang__)
BEGIN_TARGET("dotprod")
#else
BEGIN_TARGET("arch=armv8.2-a+dotprod")
#endif
#define VARIANT neondot
#define WITH_NEON
#include "variant.h"
#undef WITH_NEON
#undef VARIANT
END_TARGET

#endif

typedef struct {
    const char *name;
    void (*run)(Thread *);
    void (*math)(int which, int64_t n, const float *x, float *y);
    void (*predict)(const Predictors *all, int64_t rows, int64_t steps, const int8_t *samples, const int64_t *phase,
                    float *predictions);
} Variant;

#define VARIANT_ENTRY(name) {#name, run_##name, math_##name, predict_##name}

/* The fastest first. */
static const Variant variants[] = {
#if ON_X86_WITH_TILES
    VARIANT_ENTRY(avx512amx),
#endif
#if ON_X86
    VARIANT_ENTRY(avx512gfni),
    VARIANT_ENTRY(avx512vnni),
    VARIANT_ENTRY(avxvnni),
    VARIANT_ENTRY(avx2),
#elif ON_ARM
    VARIANT_ENTRY(neondot),
#endif
    VARIANT_ENTRY(portable),
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

/* Return the name of a variant, 0 being the fastest, or NULL after the last. */
EXPORT const char *charrnn_variant(int variant) { return variant < VARIANTS ? variants[variant].name : NULL; }

/* Return whether this processor can run a variant. */
EXPORT int charrnn_available(int variant)
{
    const char *name = variants[variant].name;
    if (!strcmp(name, "portable"))
        return 1;
#if ON_X86
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 0;
    if (!strcmp(name, "avx2"))
        return 1;
    if (!strcmp(name, "avxvnni"))
        return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
    if ((!strcmp(name, "avx512gfni") || !strcmp(name, "avx512amx")) && !__builtin_cpu_supports("gfni"))
        return 0;
#if ON_X86_WITH_TILES
    if (!strcmp(name, "avx512amx")) { /* a process has to request its tile registers */
        enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3 ||
            syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))
            return 0;
    }
#endif
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
#elif ON_ARM && defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif ON_ARM && defined(__APPLE__)
    return 1;
#else
    return 0;
#endif
}
