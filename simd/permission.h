// SPDX-License-Identifier: Apache-2.0
// AMX's tiles: Linux grants them to a process once and for all.
#pragma once

namespace mha {

// Whether this system has tiles to give. Asks for nothing.
bool has_tiles();

// Asks for the permission to use tiles; the kernel gives it again to a process that has it. false: it does not, as where
// an alternate signal stack is too small for the state of tiles, or where there is no such request.
bool permit_tiles();

}  // namespace mha
