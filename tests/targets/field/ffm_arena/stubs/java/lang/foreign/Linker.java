// SPDX-License-Identifier: Apache-2.0

package java.lang.foreign;

import java.lang.invoke.MethodHandle;

/** The part that ForeignIndex uses. */
public interface Linker {
    /** Unused here. */
    interface Option {
    }

    static Linker nativeLinker() {
        throw new AssertionError();
    }

    SymbolLookup defaultLookup();

    MethodHandle downcallHandle(MemorySegment symbol, FunctionDescriptor function, Option... options);
}
