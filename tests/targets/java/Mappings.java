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
 * from the native one on that every stack of the site holds, leaf first. {@code givers} are the methods that give back:
 * {@code method}, {@code thread}, {@code tid}, {@code n_calls}, {@code freed_bytes}, {@code other_threads_bytes}, {@code
 * calls}.
 */
public final class Mappings {
    private static final long PAGE = 4096;
    private static final int DEPTH = 5;
    private static final List<Object> KEPT = new ArrayList<>();
    private static final Map<String, long[]> SITES = new LinkedHashMap<>();
    private static final Map<String, String> KINDS = new LinkedHashMap<>();
    private static final Map<String, long[]> GIVERS = new LinkedHashMap<>();
    private static final List<Long> HANDED = new ArrayList<>();
    private static final String RETURNER = "returner";
    private static int returnerTid;
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

    private static void gave(String method, long bytes) {
        long[] sums = GIVERS.computeIfAbsent(method, key -> new long[2]);
        sums[0]++;
        sums[1] += bytes;
    }

    // ---- what is called in each round ----

    private static void keep() {
        mmap(3 * PAGE);
        allocated("map", "keep", 3 * PAGE);
    }

    private static void give() {
        long address = mmap(5 * PAGE);
        allocated("map", "give", 5 * PAGE);
        returnWhole(address);
        freed("give", 5 * PAGE, true);
    }

    private static void cut() {
        long address = mmap(13 * PAGE);
        allocated("map", "cut", 13 * PAGE);
        returnMiddle(address);
        freed("cut", 7 * PAGE, false);
    }

    private static void returnWhole(long address) {
        munmap(address, 5 * PAGE);
        gave("returnWhole", 5 * PAGE);
    }

    private static void returnMiddle(long address) {
        munmap(address + 3 * PAGE, 7 * PAGE);
        gave("returnMiddle", 7 * PAGE);
    }

    private static void hand() {
        HANDED.add(mmap(2 * PAGE));
        allocated("map", "hand", 2 * PAGE);
    }

    /** In a thread of its own. */
    private static void returnOthers() {
        returnerTid = tid();
        for (long address : HANDED) {
            munmap(address, 2 * PAGE);
            gave("returnOthers", 2 * PAGE);
            freed("hand", 2 * PAGE, true);
        }
        HANDED.clear();
    }

    /** What an mremap cuts off it gives back; the rest is its own from then on. */
    private static void shrink(long address) {
        mremap(address, 7 * PAGE, 4 * PAGE);
        gave("shrink", 3 * PAGE);
        freed("map", 7 * PAGE, true);
        allocated("map", "shrink", 4 * PAGE);
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
        gave("releaseFile", 17 * PAGE);
    }

    private static void round(int depth) throws IOException {
        if (depth > 0) {
            round(depth - 1);
            return;
        }
        keep();
        give();
        cut();
        hand();
        grow(map());
        shrink(map());
        raise();
        mapFile();
        releaseFile();
    }

    private static String calls(String method) {
        StringJoiner calls = new StringJoiner("\",\"Mappings.", "[\"Mappings.", "\"]");
        if (!method.endsWith("File")) {
            boolean remaps = method.equals("grow") || method.equals("shrink");
            calls.add(remaps ? "mremap" : method.equals("raise") ? "sbrk" : "mmap");
        }
        calls.add(method);
        for (int i = 0; i <= DEPTH; i++) {
            calls.add("round");
        }
        return calls.add("main").toString();
    }

    private static String givingCalls(String method) {
        switch (method) {
            case "releaseFile":
            case "shrink":
                return calls(method);
            case "returnOthers":
                return "[\"Mappings.munmap\",\"Mappings.returnOthers\"]";
            default:
                String caller = method.equals("returnWhole") ? "give" : "cut";
                return calls(caller).replace("[\"Mappings.mmap", "[\"Mappings.munmap\",\"Mappings." + method);
        }
    }

    private static String givers() {
        StringJoiner givers = new StringJoiner(",", "[", "]");
        GIVERS.forEach((method, sums) -> {
            boolean isOthers = method.equals("returnOthers");
            givers.add("{\"method\":\"Mappings." + method + "\",\"thread\":\"" + (isOthers ? RETURNER : "main")
                    + "\",\"tid\":" + (isOthers ? returnerTid : tid()) + ",\"n_calls\":" + sums[0]
                    + ",\"freed_bytes\":" + sums[1] + ",\"other_threads_bytes\":" + (isOthers ? sums[1] : 0)
                    + ",\"calls\":" + givingCalls(method) + "}");
        });
        return givers.toString();
    }

    private static String truth() {
        StringJoiner sites = new StringJoiner(",", "{\"givers\":" + givers() + ",\"sites\":[", "]}");
        SITES.forEach((method, sums) -> sites.add("{\"name\":\"" + method + "\",\"function\":null,\"method\":\"Mappings."
                + method + "\",\"thread\":\"main\",\"tid\":" + tid() + ",\"kind\":\"" + KINDS.get(method)
                + "\",\"outstanding_bytes\":" + sums[0] + ",\"outstanding_count\":" + sums[1] + ",\"allocated_bytes\":"
                + sums[2] + ",\"allocated_count\":" + sums[3] + ",\"calls\":" + calls(method) + "}"));
        return sites.toString();
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws IOException, InterruptedException {
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
            Thread returner = new Thread(Mappings::returnOthers, RETURNER);
            returner.start();
            returner.join();
            System.out.println(truth());
        }
    }
}
