// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Holds many small blocks of native memory, each by one object of a list.
 *
 * <p>Usage: {@code HoldsMany N [buffers] [busy]}: N objects with a block of 24 to 103 bytes, or N direct buffers; busy:
 * beside two threads that allocate objects at full speed. Prints {@code READY pid}; each line of stdin is answered with one line of JSON: {@code {"objects": N}}.
 */
public class HoldsMany {
    static class Codec {
        private final long nativeHandle;

        Codec(long handle) {
            nativeHandle = handle;
        }
    }

    static final List<Codec> CODECS = new ArrayList<>();
    static final List<ByteBuffer> BUFFERS = new ArrayList<>();

    static void churn() {
        Object[] ring = new Object[4096];
        for (int i = 0; ; i++) {
            ring[i & 4095] = new byte[64 + (i & 1023)];
        }
    }

    public static void main(String[] arguments) throws Exception {
        int n = Integer.parseInt(arguments[0]);
        List<String> how = Arrays.asList(arguments);
        Field field = sun.misc.Unsafe.class.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        sun.misc.Unsafe unsafe = (sun.misc.Unsafe) field.get(null);
        for (int i = 0; i < n; i++) {
            if (how.contains("buffers")) {
                BUFFERS.add(ByteBuffer.allocateDirect(24 + i % 80));
            } else {
                CODECS.add(new Codec(unsafe.allocateMemory(24 + i % 80)));
            }
        }
        System.gc();
        for (int i = 0; i < 2 && how.contains("busy"); i++) {
            Thread thread = new Thread(HoldsMany::churn, "churner-" + i);
            thread.setDaemon(true);
            thread.start();
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        while (in.readLine() != null) {
            System.out.println("{\"objects\": " + n + "}");
        }
    }
}
