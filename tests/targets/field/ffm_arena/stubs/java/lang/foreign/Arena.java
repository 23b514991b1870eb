// SPDX-License-Identifier: Apache-2.0

package java.lang.foreign;

/** The part of the interface of JDK 22 that ForeignIndex uses, for a javac that is older. */
public interface Arena extends SegmentAllocator, AutoCloseable {
    static Arena ofShared() {
        throw new AssertionError();
    }

    static Arena ofConfined() {
        throw new AssertionError();
    }

    MemorySegment allocate(long size, long alignment);

    @Override
    void close();
}
