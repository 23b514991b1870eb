// SPDX-License-Identifier: Apache-2.0

package java.lang.foreign;

/** The part that ForeignIndex uses. */
public interface MemorySegment {
    void set(ValueLayout.OfDouble layout, long offset, double value);
}
