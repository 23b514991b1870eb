// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.StringJoiner;
import java.util.zip.Deflater;

/**
 * A small service with three native leaks and two well-behaved threads.
 *
 * <p>usage: java -Xmx128m -XX:MaxDirectMemorySize=2g Leaker [--wait] [NAME=VALUE ...]
 *
 * <p>Values, all a second unless said otherwise; 0 leaves the thread out: {@code order-cache=53} direct buffers of
 * 64 KiB kept; {@code chunk-pool=0.5} direct buffers of 16 MiB kept; {@code gzip-writer=17} Deflaters never ended;
 * {@code good-citizens=29} direct buffers of 1 MiB allocated and released, in each of two threads;
 * {@code limit-mib=512} what a thread keeps at most, of buffers.
 *
 * <p>Prints {@code READY pid}. With {@code --wait} it allocates nothing before the line {@code go}. {@code truth} stops
 * all threads and prints what each holds since the beginning, as the other targets do; {@code function} is null, for
 * what stands in the stack depends on how far the code is compiled; {@code method} is a Java method that every such
 * stack goes through. A Deflater's native size is zlib's business: its sites have counts of objects, not bytes.
 * {@code until NAME COUNT} waits until a thread has done so many steps, and goes on as {@code truth} does.
 * {@code resume} goes on; {@code quit} and the end of stdin end the process.
 */
public final class Leaker {
    private static final int KIB = 1024;
    private static final int MIB = 1024 * KIB;

    private Leaker() {}

    /** Gives a buffer's memory back now; sun.misc.Unsafe is the one supported way before Java 22. */
    private static final class Release {
        private final Object unsafe;
        private final Method invokeCleaner;

        Release() throws ReflectiveOperationException {
            Class<?> type = Class.forName("sun.misc.Unsafe");
            var field = type.getDeclaredField("theUnsafe");
            field.setAccessible(true);
            unsafe = field.get(null);
            invokeCleaner = type.getMethod("invokeCleaner", ByteBuffer.class);
        }

        void release(ByteBuffer buffer) {
            try {
                invokeCleaner.invoke(unsafe, buffer);
            } catch (ReflectiveOperationException e) {
                throw new IllegalStateException(e);
            }
        }
    }

    /** A thread that does one step again and again, at a rate, and can be held between two steps. */
    private abstract static class Worker extends Thread {
        private final long periodNs;
        private boolean paused;
        private long steps;
        long heldBytes;
        long heldCount;
        long allocatedBytes;
        long allocatedCount;

        Worker(String name, double perSecond) {
            super(name);
            setDaemon(true);
            periodNs = (long) (1e9 / perSecond);
        }

        /** The Java method that every allocation of this thread goes through, and what it keeps. */
        abstract String method();

        abstract void step();

        void kept(long bytes) {
            heldBytes += bytes;
            heldCount++;
            allocated(bytes);
        }

        void allocated(long bytes) {
            allocatedBytes += bytes;
            allocatedCount++;
        }

        synchronized void setPaused(boolean value) {
            paused = value;
            notifyAll();
        }

        @Override
        public void run() {
            long due = System.nanoTime();
            try {
                while (true) {
                    // What a pause has cost is not made up for by a burst.
                    due = Math.max(due, System.nanoTime() - periodNs) + periodNs;
                    stepAt(due);
                }
            } catch (InterruptedException e) {
                interrupt();
            }
        }

        private synchronized void stepAt(long due) throws InterruptedException {
            long leftNs = due - System.nanoTime();
            while (paused || leftNs > 0) {
                if (paused) {
                    wait();
                } else {
                    wait(leftNs / 1_000_000, (int) (leftNs % 1_000_000));
                }
                leftNs = due - System.nanoTime();
            }
            step();
            steps++;
            notifyAll();
        }

        synchronized void awaitSteps(long wanted) throws InterruptedException {
            while (steps < wanted) {
                wait();
            }
        }

        /** Call while paused. */
        synchronized String truth(long tid) {
            return "{\"name\":\"" + getName() + "\",\"function\":null,\"method\":\"" + method()
                    + "\",\"thread\":\"" + getName() + "\",\"tid\":" + tid + ",\"kind\":\"heap\"" + amounts() + "}";
        }

        String amounts() {
            return ",\"outstanding_bytes\":" + heldBytes + ",\"outstanding_count\":" + heldCount
                    + ",\"allocated_bytes\":" + allocatedBytes + ",\"allocated_count\":" + allocatedCount;
        }
    }

    /** Remembers every order in a direct buffer, and forgets none. */
    private static final class OrderCache extends Worker {
        private final List<ByteBuffer> orders = new ArrayList<>();
        private final int bufferBytes;
        private final long limitBytes;

        OrderCache(String name, double perSecond, int bufferBytes, long limitBytes) {
            super(name, perSecond);
            this.bufferBytes = bufferBytes;
            this.limitBytes = limitBytes;
        }

        @Override
        String method() {
            return "Leaker$OrderCache.remember";
        }

        @Override
        void step() {
            if (heldBytes + bufferBytes <= limitBytes) {
                remember();
            }
        }

        private void remember() {
            orders.add(ByteBuffer.allocateDirect(bufferBytes));
            kept(bufferBytes);
        }
    }

    /** As a pool of network buffers does: chunks of 16 MiB, taken when the last one is full, never returned. */
    private static final class ChunkPool extends Worker {
        private static final int CHUNK_BYTES = 16 * MIB;
        private final List<ByteBuffer> chunks = new ArrayList<>();
        private final long limitBytes;

        ChunkPool(String name, double perSecond, long limitBytes) {
            super(name, perSecond);
            this.limitBytes = limitBytes;
        }

        @Override
        String method() {
            return "Leaker$ChunkPool.newChunk";
        }

        @Override
        void step() {
            if (heldBytes + CHUNK_BYTES <= limitBytes) {
                newChunk();
            }
        }

        private void newChunk() {
            chunks.add(ByteBuffer.allocateDirect(CHUNK_BYTES));
            kept(CHUNK_BYTES);
        }
    }

    /** Compresses each response with a Deflater of its own and never calls end(). */
    private static final class GzipWriter extends Worker {
        private final List<Deflater> deflaters = new ArrayList<>();
        private final byte[] response = "{\"status\":\"ok\"}".repeat(64).getBytes(StandardCharsets.UTF_8);
        private final byte[] compressed = new byte[2048];

        GzipWriter(String name, double perSecond) {
            super(name, perSecond);
        }

        @Override
        String method() {
            return "Leaker$GzipWriter.compress";
        }

        @Override
        void step() {
            compress();
        }

        private void compress() {
            Deflater deflater = new Deflater(Deflater.BEST_SPEED, true);
            deflater.setInput(response);
            deflater.finish();
            deflater.deflate(compressed);
            deflaters.add(deflater);
            heldCount++;
        }

        @Override
        String amounts() {
            return ",\"held_objects\":" + heldCount;
        }
    }

    /** Takes a buffer, uses it, gives it back. */
    private static final class GoodCitizen extends Worker {
        private final Release release;

        GoodCitizen(String name, double perSecond, Release release) {
            super(name, perSecond);
            this.release = release;
        }

        @Override
        String method() {
            return "Leaker$GoodCitizen.serve";
        }

        @Override
        void step() {
            serve();
        }

        private void serve() {
            ByteBuffer buffer = ByteBuffer.allocateDirect(MIB);
            buffer.putLong(0, System.nanoTime());
            release.release(buffer);
            allocated(MIB);
        }
    }

    private static List<Worker> workers(Map<String, Double> values) throws ReflectiveOperationException {
        long limitBytes = (long) (values.get("limit-mib") * MIB);
        Release release = new Release();
        List<Worker> workers = new ArrayList<>();
        workers.add(new OrderCache("order-cache", values.get("order-cache"), 64 * KIB, limitBytes));
        workers.add(new ChunkPool("chunk-pool", values.get("chunk-pool"), limitBytes));
        workers.add(new GzipWriter("gzip-writer", values.get("gzip-writer")));
        for (int i = 1; i <= 2; i++) {
            workers.add(new GoodCitizen("good-citizen-" + i, values.get("good-citizens"), release));
        }
        workers.removeIf(worker -> worker.periodNs == Long.MAX_VALUE);
        return workers;
    }

    private static Map<String, Double> values(String[] arguments) {
        Map<String, Double> values = new LinkedHashMap<>();
        values.put("order-cache", 53.0);
        values.put("chunk-pool", 0.5);
        values.put("gzip-writer", 17.0);
        values.put("good-citizens", 29.0);
        values.put("limit-mib", 512.0);
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            if (!argument.equals("--wait") && (pair.length != 2 || !values.containsKey(pair[0]))) {
                throw new IllegalArgumentException("unknown argument " + argument + "; known: " + values.keySet());
            }
            if (pair.length == 2) {
                values.put(pair[0], Double.parseDouble(pair[1]));
            }
        }
        return values;
    }

    private static void awaitSteps(List<Worker> workers, String name, long wanted) throws InterruptedException {
        for (Worker worker : workers) {
            if (worker.getName().equals(name)) {
                worker.awaitSteps(wanted);
            }
        }
    }

    private static void printTruth(List<Worker> workers) throws IOException {
        Map<String, Long> tids = tids();
        StringJoiner sites = new StringJoiner(",");
        for (Worker worker : workers) {
            worker.setPaused(true);
        }
        for (Worker worker : workers) {
            sites.add(worker.truth(tids.getOrDefault(worker.getName(), 0L)));
        }
        System.out.println("{\"complete\":false,\"unmatched_frees\":0,\"sites\":[" + sites + "]}");
    }

    /** Java has no way to ask for the kernel's thread ids; the names in /proc are unique here. */
    private static Map<String, Long> tids() throws IOException {
        Map<String, Long> tids = new LinkedHashMap<>();
        try (var tasks = Files.newDirectoryStream(Path.of("/proc/self/task"))) {
            for (var task : tasks) {
                String name;
                try {
                    name = Files.readString(task.resolve("comm")).strip();
                } catch (IOException ended) { // a thread of the JVM's own, which come and go
                    continue;
                }
                tids.put(name, Long.parseLong(task.getFileName().toString()));
            }
        }
        return tids;
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        List<Worker> workers = workers(values(arguments));
        boolean waits = List.of(arguments).contains("--wait");
        for (Worker worker : workers) {
            worker.setPaused(waits);
            worker.start();
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null && !line.equals("quit"); line = input.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "until":
                    awaitSteps(workers, words[1], Long.parseLong(words[2]));
                    printTruth(workers);
                    break;
                case "truth":
                    printTruth(workers);
                    break;
                case "go":
                case "resume":
                    workers.forEach(worker -> worker.setPaused(false));
                    break;
                default:
                    System.err.println("target: unknown command " + line);
                    System.exit(70);
            }
        }
        // Buffers still referenced must not be released by an orderly end while a trace looks on.
        Runtime.getRuntime().halt(0);
    }
}
