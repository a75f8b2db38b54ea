#include "isa/isa.h"
#include "isa/make_table.h"

namespace apex::isa {

const KernelTable & scalar() {
    static const KernelTable table = make_table<1>();
    return table;
}

}  // namespace apex::isa
