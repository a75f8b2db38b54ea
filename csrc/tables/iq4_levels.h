// The sixteen levels of IQ4, and the points between them.
#pragma once

namespace apex {

struct Iq4Levels {
    alignas(64) float value[16];
    alignas(64) float midpoint[16];  // midpoint[k]: the lowest that goes to level k; [0] is unused

    static const Iq4Levels & get();
};

}  // namespace apex
