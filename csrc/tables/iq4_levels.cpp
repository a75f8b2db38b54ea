#include "iq4_levels.h"

#include "upstream.h"

namespace apex {

const Iq4Levels & Iq4Levels::get() {
    static const Iq4Levels made = [] {
        Iq4Levels result;
        for (int k = 0; k < 16; ++k) {
            const int below = k == 0 ? -kvalues_iq4nl[0] : kvalues_iq4nl[k - 1];
            result.value[k] = static_cast<float>(kvalues_iq4nl[k]);
            result.midpoint[k] = 0.5f * static_cast<float>(below + kvalues_iq4nl[k]);
        }
        return result;
    }();
    return made;
}

}  // namespace apex
