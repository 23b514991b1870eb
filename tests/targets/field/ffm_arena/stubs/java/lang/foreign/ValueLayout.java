// SPDX-License-Identifier: Apache-2.0

package java.lang.foreign;

/** The part that ForeignIndex uses. */
public interface ValueLayout extends MemoryLayout {
    /** Of a double. */
    interface OfDouble extends ValueLayout {
    }

    AddressLayout ADDRESS = null;
    OfDouble JAVA_DOUBLE = null;
}
