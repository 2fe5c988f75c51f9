// Typed neurons: of the exact neurons of a pair of experts each is dropped, private to its own expert, or shared with the other,
// and the down projection of each expert is fitted anew to its own output. Gates stay as they are.
#pragma once

#include "surgery/zip_methods.h"

namespace mixwright::surgery {

/// Experts of unequal width, in pairs that may share rows: ZipFormat::zipped. With ZipMethod::neuron nobody shares: then it is neuron
/// selection with a common budget for the layer. The budget is `keep` of the layer's expert bytes.
MadeBlock typed_block(const ZipContext& context);

/// Experts of one width, each with copies of the neurons it needs, its partner's among them: ZipFormat::standard.
MadeBlock typed_uniform_block(const ZipContext& context);

}  // namespace mixwright::surgery
