#include "isa/isa.h"
#include "isa/make_table.h"

namespace apex::isa {

const KernelTable & avx2() {
    static const KernelTable table = make_table<8>();
    return table;
}

}  // namespace apex::isa
