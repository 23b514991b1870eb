// SPDX-License-Identifier: Apache-2.0

import sun.misc.Unsafe;

/** Memory outside of the Java heap. */
final class Memory {
    static final Unsafe UNSAFE;

    static {
        try {
            var field = Unsafe.class.getDeclaredField("theUnsafe");
            field.setAccessible(true);
            UNSAFE = (Unsafe) field.get(null);
        } catch (ReflectiveOperationException e) {
            throw new ExceptionInInitializerError(e);
        }
    }

    private Memory() { }
}
