#include "isa/isa.h"
#include "isa/make_table.h"

namespace apex::isa {

const KernelTable & neon() {
    static const KernelTable table = make_table<4>();
    return table;
}

}  // namespace apex::isa
