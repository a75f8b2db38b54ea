#include "isa/isa.h"
#include "isa/make_table.h"

namespace apex::isa {

const KernelTable & avx512() {
    static const KernelTable table = make_table<16>();
    return table;
}

}  // namespace apex::isa
