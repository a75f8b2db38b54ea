// All kernels for lanes of one width. Included by the files of csrc/isa, each with its own
// instruction set.
#pragma once

#include <ggml.h>

#include "compensation/compensate.h"
#include "compensation/factorize.h"
#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/iq4.h"
#include "formats/mxfp4.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_k_q5_k.h"
#include "formats/q4_q5.h"
#include "formats/q6_k.h"
#include "formats/q8_0.h"
#include "isa/blocks.h"
#include "isa/convert.h"
#include "isa/kernel_table.h"
#include "isa/products.h"

namespace apex {
namespace {

template <typename L, typename Format>
void add(KernelTable & table, ggml_type type) {
    table.quantize[type][false] = quantize_blocks<L, Format, false>;
    table.quantize[type][true] = quantize_blocks<L, Format, true>;
}

// A format that cannot do without importance.
template <typename L, typename Format>
void add_weighted(KernelTable & table, ggml_type type) {
    table.quantize[type][true] = quantize_blocks<L, Format, true>;
}

template <typename L, typename Codec>
void add_compensated(KernelTable & table, ggml_type type) {
    table.compensate[type] = compensate_rows<L, Codec>;
}

template <typename L>
void add_compensated(KernelTable & table) {
    add_compensated<L, CodecQ80>(table, GGML_TYPE_Q8_0);
    add_compensated<L, CodecCentered<8>>(table, GGML_TYPE_Q4_0);
    add_compensated<L, CodecCentered<16>>(table, GGML_TYPE_Q5_0);
    add_compensated<L, CodecShifted<15>>(table, GGML_TYPE_Q4_1);
    add_compensated<L, CodecShifted<31>>(table, GGML_TYPE_Q5_1);
    add_compensated<L, CodecQ2K>(table, GGML_TYPE_Q2_K);
    add_compensated<L, CodecQ3K>(table, GGML_TYPE_Q3_K);
    add_compensated<L, CodecQ45K<15>>(table, GGML_TYPE_Q4_K);
    add_compensated<L, CodecQ45K<31>>(table, GGML_TYPE_Q5_K);
    add_compensated<L, CodecQ6K>(table, GGML_TYPE_Q6_K);
    add_compensated<L, CodecIq4<32>>(table, GGML_TYPE_IQ4_NL);
    add_compensated<L, CodecIq4<256>>(table, GGML_TYPE_IQ4_XS);
    add_compensated<L, CodecIq1S>(table, GGML_TYPE_IQ1_S);
    add_compensated<L, CodecIq1M>(table, GGML_TYPE_IQ1_M);
    add_compensated<L, CodecIq2Xxs>(table, GGML_TYPE_IQ2_XXS);
    add_compensated<L, CodecIq2Xs>(table, GGML_TYPE_IQ2_XS);
    add_compensated<L, CodecIq2S>(table, GGML_TYPE_IQ2_S);
    add_compensated<L, CodecIq3Xxs>(table, GGML_TYPE_IQ3_XXS);
    add_compensated<L, CodecIq3S>(table, GGML_TYPE_IQ3_S);
}

template <int W>
constexpr const char * compiled_for() {
    if (W == 1) {
        return "scalar";
    }
#if defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX2__)
    return "avx2";
#elif defined(__ARM_NEON)
    return "neon";
#else
    return "baseline";
#endif
}

template <int W>
KernelTable make_table() {
    using L = Lanes<W>;
    KernelTable table;
    table.isa = compiled_for<W>();
    add<L, Q80>(table, GGML_TYPE_Q8_0);
    add<L, Centered<8>>(table, GGML_TYPE_Q4_0);
    add<L, Centered<16>>(table, GGML_TYPE_Q5_0);
    add<L, Shifted<15>>(table, GGML_TYPE_Q4_1);
    add<L, Shifted<31>>(table, GGML_TYPE_Q5_1);
    add<L, Mxfp4>(table, GGML_TYPE_MXFP4);
    add<L, Q2K>(table, GGML_TYPE_Q2_K);
    add<L, Q3K>(table, GGML_TYPE_Q3_K);
    add<L, Q45K<15>>(table, GGML_TYPE_Q4_K);
    add<L, Q45K<31>>(table, GGML_TYPE_Q5_K);
    add<L, Q6K>(table, GGML_TYPE_Q6_K);
    add<L, Iq4<32>>(table, GGML_TYPE_IQ4_NL);
    add<L, Iq4<256>>(table, GGML_TYPE_IQ4_XS);
    add_weighted<L, Iq1S>(table, GGML_TYPE_IQ1_S);
    add<L, Iq1M>(table, GGML_TYPE_IQ1_M);
    add_weighted<L, Iq2Xxs>(table, GGML_TYPE_IQ2_XXS);
    add_weighted<L, Iq2Xs<false>>(table, GGML_TYPE_IQ2_XS);
    add<L, Iq2Xs<true>>(table, GGML_TYPE_IQ2_S);
    add<L, Iq3Xxs>(table, GGML_TYPE_IQ3_XXS);
    add<L, Iq3S>(table, GGML_TYPE_IQ3_S);
    add_compensated<L>(table);
    table.factor_panel = factor_panel;
    table.subtract_panel = subtract_panel<L>;
    table.all_finite = all_finite;
    table.from_f16 = convert_f16;
    table.from_bf16 = convert_bf16;
    table.add_products = add_products<L>;
    return table;
}

}  // namespace
}  // namespace apex
