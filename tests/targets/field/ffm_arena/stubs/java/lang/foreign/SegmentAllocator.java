// SPDX-License-Identifier: Apache-2.0

package java.lang.foreign;

/** The part that ForeignIndex uses. */
public interface SegmentAllocator {
    default MemorySegment allocateFrom(String text) {
        throw new AssertionError();
    }
}
