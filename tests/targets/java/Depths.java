// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.nio.charset.StandardCharsets;
import sun.misc.Unsafe;

/**
 * Pairs of malloc and free at a chosen depth of compiled Java frames, and what one takes.
 *
 * <p>Prints {@code READY pid}. {@code go DEPTH PAIRS} answers with {@code {"ns_per_pair": ...}}, in the
 * thread's CPU time: the machine may be busy. Run with {@code -XX:CompileCommand=dontinline,Depths::down}: each level is a frame of its own then.
 */
public final class Depths {
    private static final int BLOCK_BYTES = 104;
    private static final Unsafe UNSAFE = TheUnsafe.get();
    private static final ThreadMXBean THREADS = ManagementFactory.getThreadMXBean();

    private Depths() {}

    private static void pairs(int n) {
        for (int i = 0; i < n; i++) {
            UNSAFE.freeMemory(UNSAFE.allocateMemory(BLOCK_BYTES));
        }
    }

    private static double down(int depth, int n) {
        if (depth > 0) {
            return down(depth - 1, n) + 0.0;
        }
        long start = THREADS.getCurrentThreadCpuTime();
        pairs(n);
        return (THREADS.getCurrentThreadCpuTime() - start) / (double) n;
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws IOException {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (int i = 0; i < 20_000; i++) {
            down(3, 30);
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            System.out.println("{\"ns_per_pair\":" + down(Integer.parseInt(words[1]), Integer.parseInt(words[2])) + "}");
        }
    }
}
