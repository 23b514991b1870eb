// SPDX-License-Identifier: Apache-2.0

import sun.misc.Unsafe;

/** The one object whose methods get native memory with nothing in between; every JDK has it so far. */
final class TheUnsafe {
    private TheUnsafe() {}

    static Unsafe get() {
        try {
            var field = Unsafe.class.getDeclaredField("theUnsafe");
            field.setAccessible(true);
            return (Unsafe) field.get(null);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }
}
