/* AMX: tiles of 16 rows of 64 bytes, for compilers that know it. */
#ifndef AMX_H
#define AMX_H

#include "xnor.h"

#if defined(HAVE_X86) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxint8intrin.h>)
#define HAVE_AMX 1
#endif
#endif

#ifdef HAVE_AMX
#define AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,amx-tile,amx-int8")))

/* whether this machine has AMX for bytes, and the system lets this process use it; VBMI is part of it here */
int amx_usable(void);

/* around the tiles of a task: all eight tiles have 16 rows of 64 bytes; others may have used them before */
void amx_begin(void);
void amx_end(void);
#endif

#endif
