// Part of the stand-in: accumulators on a cascade. See adf.h.
#ifndef STANDIN_AIE_ADF_HPP
#define STANDIN_AIE_ADF_HPP

#include "../adf.h"
#include "aie.hpp"

template <unsigned Lanes, class Tag>
aie::accum<Tag, Lanes> readincr_v(input_cascade<Tag>* from) {
    aie::accum<Tag, Lanes> value;
    from->port.channel->pop(value.lanes.data(), sizeof value.lanes, from->port.owner);
    return value;
}

template <class Tag, unsigned Lanes>
void writeincr(output_cascade<Tag>* to, const aie::accum<Tag, Lanes>& value) {
    to->port.channel->push(value.lanes.data(), sizeof value.lanes);
}

#endif
