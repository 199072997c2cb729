/* Memory of lookup.h. */
#include <stdlib.h>

#include "lookup.h"

void *lookup_scratch(size_t bytes)
{
    static __thread void *memory;
    static __thread size_t size;
    if (size < bytes) {
        free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = aligned_alloc(64, size);
        if (!memory) size = 0;
    }
    return memory;
}
