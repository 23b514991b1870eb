// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.StringJoiner;
import sun.misc.Unsafe;

/**
 * Address space that Java methods take, cut, move and give back: by a native library without frame pointers, and by the
 * JDK's own means.
 *
 * <p>Usage: {@code Mappings LIBRARY} (built from mappings.c). Prints {@code READY pid}. {@code go ROUNDS} answers as the
 * other targets do, {@code method} standing for {@code function}; its sites have {@code calls} besides: the Java methods
 * from the native one on that every stack of the site holds, leaf first.
 */
public final class Mappings {
    private static final long PAGE = 4096;
    private static final int DEPTH = 5;
    private static final List<Object> KEPT = new ArrayList<>();
    private static final Map<String, long[]> SITES = new LinkedHashMap<>();
    private static final Map<String, String> KINDS = new LinkedHashMap<>();
    private static final Unsafe UNSAFE = TheUnsafe.get();
    private static FileChannel file;

    private Mappings() {}

    private static native int tid();

    private static native long mmap(long bytes);

    private static native void munmap(long address, long bytes);

    private static native long mremap(long address, long oldBytes, long newBytes);

    private static native long sbrk(long bytes);

    // ---- the ledger ----

    private static void allocated(String kind, String method, long bytes) {
        KINDS.put(method, kind);
        long[] sums = SITES.computeIfAbsent(method, key -> new long[4]);
        sums[0] += bytes;
        sums[1]++;
        sums[2] += bytes;
        sums[3]++;
    }

    /** Some of it is gone; {@code isWhole}: nothing of the call is left. */
    private static void freed(String method, long bytes, boolean isWhole) {
        long[] sums = SITES.get(method);
        sums[0] -= bytes;
        sums[1] -= isWhole ? 1 : 0;
    }

    // ---- what is called in each round ----

    private static void keep() {
        mmap(3 * PAGE);
        allocated("map", "keep", 3 * PAGE);
    }

    private static void give() {
        long address = mmap(5 * PAGE);
        allocated("map", "give", 5 * PAGE);
        takeBack(address, 5 * PAGE);
        freed("give", 5 * PAGE, true);
    }

    private static void cut() {
        long address = mmap(13 * PAGE);
        allocated("map", "cut", 13 * PAGE);
        takeBack(address + 3 * PAGE, 7 * PAGE);
        freed("cut", 7 * PAGE, false);
    }

    /** What gives memory back: its own stack is recorded nowhere. */
    private static void takeBack(long address, long bytes) {
        munmap(address, bytes);
    }

    private static long map() {
        long address = mmap(7 * PAGE);
        allocated("map", "map", 7 * PAGE);
        return address;
    }

    /** What is there after an mremap is the mremap's. */
    private static void grow(long address) {
        mremap(address, 7 * PAGE, 19 * PAGE);
        freed("map", 7 * PAGE, true);
        allocated("map", "grow", 19 * PAGE);
    }

    private static void raise() {
        sbrk(10_007);
        allocated("brk", "raise", 10_007);
    }

    private static void mapFile() throws IOException {
        KEPT.add(file.map(FileChannel.MapMode.READ_WRITE, 0, 11 * PAGE));
        allocated("map", "mapFile", 11 * PAGE);
    }

    private static void releaseFile() throws IOException {
        MappedByteBuffer buffer = file.map(FileChannel.MapMode.READ_WRITE, 0, 17 * PAGE);
        allocated("map", "releaseFile", 17 * PAGE);
        UNSAFE.invokeCleaner((ByteBuffer) buffer);
        freed("releaseFile", 17 * PAGE, true);
    }

    private static void round(int depth) throws IOException {
        if (depth > 0) {
            round(depth - 1);
            return;
        }
        keep();
        give();
        cut();
        grow(map());
        raise();
        mapFile();
        releaseFile();
    }

    private static String calls(String method) {
        StringJoiner calls = new StringJoiner("\",\"Mappings.", "[\"Mappings.", "\"]");
        if (!method.endsWith("File")) {
            calls.add(method.equals("grow") ? "mremap" : method.equals("raise") ? "sbrk" : "mmap");
        }
        calls.add(method);
        for (int i = 0; i <= DEPTH; i++) {
            calls.add("round");
        }
        return calls.add("main").toString();
    }

    private static String truth() {
        StringJoiner sites = new StringJoiner(",", "{\"sites\":[", "]}");
        SITES.forEach((method, sums) -> sites.add("{\"name\":\"" + method + "\",\"function\":null,\"method\":\"Mappings."
                + method + "\",\"thread\":\"main\",\"tid\":" + tid() + ",\"kind\":\"" + KINDS.get(method)
                + "\",\"outstanding_bytes\":" + sums[0] + ",\"outstanding_count\":" + sums[1] + ",\"allocated_bytes\":"
                + sums[2] + ",\"allocated_count\":" + sums[3] + ",\"calls\":" + calls(method) + "}"));
        return sites.toString();
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws IOException {
        System.load(arguments[0]);
        Path path = Files.createTempFile("mappings", ".bin");
        path.toFile().deleteOnExit();
        file = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE);
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            for (int i = Integer.parseInt(line.split(" ")[1]); i > 0; i--) {
                round(DEPTH);
            }
            System.out.println(truth());
        }
    }
}
