// Whether this processor, and this system, have tiles.

#include "tiles.h"

#ifdef __AMX_BF16__

#include <sys/syscall.h>
#include <unistd.h>

extern "C" int td_has_tiles() {
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

#else

extern "C" int td_has_tiles() {
    return 0;
}

#endif
