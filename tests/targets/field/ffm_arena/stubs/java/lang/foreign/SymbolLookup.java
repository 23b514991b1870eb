// SPDX-License-Identifier: Apache-2.0

package java.lang.foreign;

import java.util.Optional;

/** The part that ForeignIndex uses. */
public interface SymbolLookup {
    Optional<MemorySegment> find(String name);
}
