// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;

/**
 * A JVM at rest with a heap and a metaspace that are filled.
 *
 * <p>usage: java Fills MIB LOADERS DIRECT: keeps MIB of arrays and small objects, LOADERS class loaders with a class
 * each, and DIRECT direct buffers of 1 MiB. Prints {@code READY pid}; {@code waste N} allocates and drops N MiB of
 * malloc by direct buffers and answers {@code DONE}; the end of stdin ends it.
 */
public final class Fills {
    private static final int MIB = 1 << 20;
    private static final List<Object> KEPT = new ArrayList<>();

    private Fills() {}

    /** What each loader defines. */
    public static final class Held {
        static final int[] NUMBERS = {1, 2, 3};
    }

    private static final class Loader extends ClassLoader {
        Class<?> define(byte[] code) {
            return defineClass("Fills$Held", code, 0, code.length);
        }
    }

    private static void fill(int mib) {
        for (int i = 0; i < mib; i++) {
            if (i % 2 == 0) {
                KEPT.add(new byte[MIB - 16]);
                continue;
            }
            Object[] small = new Object[10000];
            for (int n = 0; n < small.length; n++) {
                small[n] = new byte[72];
            }
            KEPT.add(small);
        }
    }

    private static void load(int loaders) throws Exception {
        byte[] code;
        try (InputStream in = Fills.class.getResourceAsStream("Fills$Held.class")) {
            code = in.readAllBytes();
        }
        for (int i = 0; i < loaders; i++) {
            KEPT.add(new Loader().define(code).getDeclaredConstructor().newInstance());
        }
    }

    public static void main(String[] arguments) throws Exception {
        fill(Integer.parseInt(arguments[0]));
        load(Integer.parseInt(arguments[1]));
        for (int i = 0; i < Integer.parseInt(arguments[2]); i++) {
            KEPT.add(ByteBuffer.allocateDirect(MIB));
        }
        System.gc();
        System.out.println("READY " + ProcessHandle.current().pid());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            int mib = Integer.parseInt(line.split(" ")[1]);
            List<ByteBuffer> dropped = new ArrayList<>();
            for (int i = 0; i < mib * 64; i++) {
                dropped.add(ByteBuffer.allocateDirect(MIB / 64));
            }
            KEPT.add(dropped.get(dropped.size() - 1));
            dropped = null;
            for (int i = 0; i < 3; i++) {
                System.gc();
                Thread.sleep(100);
            }
            System.out.println("DONE");
        }
    }
}
