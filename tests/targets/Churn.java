// SPDX-License-Identifier: Apache-2.0

import java.io.RandomAccessFile;
import java.lang.invoke.MethodHandles;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Makes the JVM take and give back memory for itself: the Java heap grows and shrinks, threads come and go, code is
 * compiled, classes are defined and unloaded. For the program it maps one file, and nothing else.
 *
 * <p>Prints {@code READY pid}; at {@code go} it does all of it and prints
 * {@code {"mapped_bytes": what the program has mapped, "heap_committed": bytes, "threads": n}}.
 */
public final class Churn {
    private static final int MIB = 1 << 20;
    private static final int MAPPED_BYTES = 37 * 4096;
    private static volatile Object sink;

    private Churn() {}

    /** Fills most of the heap, drops it, and lets the collector give back what it took. */
    private static void fillAndDrop() {
        for (int round = 0; round < 3; round++) {
            List<byte[]> kept = new ArrayList<>();
            for (int i = 0; i < 64; i++) {
                kept.add(new byte[MIB]);
            }
            sink = kept;
            sink = null;
            kept.clear();
            System.gc();
        }
    }

    /** Enough rounds for both compilers. */
    private static long compute() {
        long sum = 0;
        for (int i = 0; i < 3_000_000; i++) {
            sum = sum * 31 + Integer.toString(i & 1023).hashCode();
        }
        return sum;
    }

    private static void threads() throws InterruptedException {
        for (int round = 0; round < 4; round++) {
            List<Thread> threads = new ArrayList<>();
            for (int i = 0; i < 16; i++) {
                Thread thread = new Thread(() -> sink = compute(), "short-" + i);
                threads.add(thread);
                thread.start();
            }
            for (Thread thread : threads) {
                thread.join();
            }
        }
    }

    /** A template that is defined a thousand times, each time as a class of its own that nobody keeps. */
    private static final class Template implements Runnable {
        @Override
        public void run() {
            sink = this;
        }
    }

    private static void classes() throws Exception {
        byte[] code;
        try (var in = Churn.class.getResourceAsStream("Churn$Template.class")) {
            code = in.readAllBytes();
        }
        for (int i = 0; i < 1000; i++) {
            ClassLoader loader = new ClassLoader(null) {
                @Override
                protected Class<?> findClass(String name) {
                    return defineClass(name, code, 0, code.length);
                }
            };
            try {
                sink = loader.loadClass("Churn$Template");
            } catch (LinkageError | ClassNotFoundException e) {
                throw new IllegalStateException(e);
            }
        }
        sink = MethodHandles.lookup();
        System.gc();
    }

    private static MappedByteBuffer map() throws Exception {
        Path path = Files.createTempFile("churn", ".map");
        try (RandomAccessFile file = new RandomAccessFile(path.toFile(), "rw")) {
            file.setLength(MAPPED_BYTES);
            return file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, MAPPED_BYTES);
        } finally {
            Files.delete(path);
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println("READY " + ProcessHandle.current().pid());
        String line = new java.io.BufferedReader(new java.io.InputStreamReader(System.in)).readLine();
        if (!"go".equals(line)) {
            return;
        }
        MappedByteBuffer kept = map();
        kept.put(0, (byte) 1);
        fillAndDrop();
        threads();
        classes();
        fillAndDrop();
        System.out.println("{\"mapped_bytes\":" + MAPPED_BYTES + ",\"heap_committed\":" + Runtime.getRuntime().totalMemory()
                + ",\"threads\":" + Thread.activeCount() + "}");
        while (System.in.read() >= 0) {
            sink = kept;
        }
        Runtime.getRuntime().halt(0);
    }
}
