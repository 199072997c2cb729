/* Permission and configuration of AMX tiles. */
#define _GNU_SOURCE /* syscall */
#include "amx.h"

#ifdef HAVE_AMX
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST 0x1023 /* ARCH_REQ_XCOMP_PERM: a process asks once, for all its threads */
#define TILE_DATA 18   /* XFEATURE_XTILEDATA */

int amx_usable(void)
{
    unsigned a, b, c, d;
    const unsigned tile = 1u << 24, bytes = 1u << 25;
    if (!__builtin_cpu_supports("avx512vbmi") || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (d & tile) && (d & bytes) && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

#define EIGHT(value) {value, value, value, value, value, value, value, value}

/* a constant in memory, as the compiler believes that loading it reads eight bytes */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} whole = {.palette = 1, .bytes = EIGHT(64), .rows = EIGHT(16)};

AMX_TARGET void amx_begin(void) { _tile_loadconfig(&whole); }

AMX_TARGET void amx_end(void) { _tile_release(); }
#endif
