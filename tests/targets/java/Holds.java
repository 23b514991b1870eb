// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.RandomAccessFile;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

/**
 * Holds native memory in every way that Java code does, each a known number of times.
 *
 * <p>Usage: {@code Holds [MIB]}, the size of what else is in the heap. Prints {@code READY pid}. {@code go} makes the objects and answers with one line
 * of JSON: for each way its objects and the bytes of each. {@code busy} then starts two threads that allocate until
 * stdin ends, with {@code busy old} so that old objects are moved too. {@code collections} says how often the collectors ran.
 */
public class Holds {
    static final int MAPPED_BYTES = 1 << 20;

    static class Orders {
        final ArrayList<ByteBuffer> buffers = new ArrayList<>();
    }

    static class Codec {
        private long nativeHandle;

        Codec(long handle) {
            nativeHandle = handle;
        }
    }

    static class Vault {
        Object content;
    }

    static final Map<String, ByteBuffer> CACHE = new HashMap<>();
    static final Orders ORDERS = new Orders();
    static final ThreadLocal<ByteBuffer> LOCAL = new ThreadLocal<>();
    static final List<Codec> CODECS = new LinkedList<>();
    static final List<Deflater> DEFLATERS = new ArrayList<>();
    static final List<Inflater> INFLATERS = new ArrayList<>();
    static final List<ByteBuffer> SLICES = new ArrayList<>();
    static final Map<String, Object> HANDLES = new HashMap<>();
    static final Vault DEEP = new Vault();
    static final List<Object> FILL = new ArrayList<>();
    static MappedByteBuffer mapped;
    static long bareHandle;
    static volatile Object sink;
    static final List<Thread> THREADS = new ArrayList<>();

    static sun.misc.Unsafe unsafe() throws Exception {
        Field field = sun.misc.Unsafe.class.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        return (sun.misc.Unsafe) field.get(null);
    }

    /** Dropped at once: in a thread of its own, whose stack is gone afterwards. */
    static void drop(Runnable work) throws Exception {
        Thread thread = new Thread(work, "dropper");
        thread.start();
        thread.join();
    }

    static void fill(int mebibytes) {
        for (int i = 0; i < mebibytes; i++) {
            FILL.add(new byte[1 << 20]);
        }
    }

    static void keep(sun.misc.Unsafe unsafe) throws Exception {
        for (int i = 0; i < 101; i++) {
            CACHE.put("k" + i, ByteBuffer.allocateDirect(200_003));
        }
        for (int i = 0; i < 53; i++) {
            ORDERS.buffers.add(ByteBuffer.allocateDirect(100_003));
        }
        CountDownLatch started = new CountDownLatch(7);
        for (int i = 0; i < 7; i++) {
            Thread thread = new Thread(() -> {
                LOCAL.set(ByteBuffer.allocateDirect(1_000_003));
                started.countDown();
                try {
                    Thread.sleep(Long.MAX_VALUE);
                } catch (InterruptedException end) {
                    // the end
                }
            }, "worker-" + i);
            thread.setDaemon(true);
            thread.start();
        }
        started.await();
        for (int i = 0; i < 41; i++) {
            CODECS.add(new Codec(unsafe.allocateMemory(50_003)));
        }
        for (int i = 0; i < 31; i++) {
            Deflater deflater = new Deflater();
            deflater.setInput(new byte[100]);
            deflater.deflate(new byte[50]);
            DEFLATERS.add(deflater);
        }
        for (int i = 0; i < 29; i++) {
            INFLATERS.add(new Inflater());
        }
        for (int i = 0; i < 5; i++) {
            ByteBuffer buffer = ByteBuffer.allocateDirect(600_011);
            buffer.position(1003);
            SLICES.add(buffer.slice());
        }
        long[] handles = new long[23];
        for (int i = 0; i < handles.length; i++) {
            handles[i] = unsafe.allocateMemory(80_021);
        }
        HANDLES.put("handles", handles);
        bareHandle = unsafe.allocateMemory(90_001);
        Object at = new ByteBuffer[] {ByteBuffer.allocateDirect(300_007), ByteBuffer.allocateDirect(300_007)};
        for (int i = 0; i < 40; i++) {
            Vault outer = new Vault();
            outer.content = at;
            at = outer;
        }
        DEEP.content = at;
        Path file = Files.createTempFile("holds", ".bin");
        try (RandomAccessFile opened = new RandomAccessFile(file.toFile(), "rw")) {
            opened.setLength(MAPPED_BYTES);
            mapped = opened.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, MAPPED_BYTES);
            mapped.put(0, (byte) 1);
        } finally {
            Files.delete(file);
        }
    }

    static void leave(sun.misc.Unsafe unsafe) throws Exception {
        drop(() -> {
            for (int i = 0; i < 61; i++) {
                Deflater deflater = new Deflater();
                deflater.setInput(new byte[100]);
                deflater.deflate(new byte[50]);
            }
        });
        drop(() -> {
            ArrayList<ByteBuffer> dropped = new ArrayList<>();
            for (int i = 0; i < 83; i++) {
                dropped.add(ByteBuffer.allocateDirect(400_009));
            }
            sink = dropped;
            sink = null;
        });
        drop(() -> {
            ArrayList<Codec> dropped = new ArrayList<>();
            for (int i = 0; i < 37; i++) {
                dropped.add(new Codec(unsafe.allocateMemory(70_001)));
            }
            sink = dropped;
            sink = null;
        });
        drop(() -> {
            for (int i = 0; i < 11; i++) {
                unsafe.allocateMemory(60_013);
            }
        });
    }

    /** Allocates at full speed; with many keys what is dropped is old, so that full collections follow. */
    static void churn(int keys) {
        HashMap<Integer, Object> map = new HashMap<>();
        java.util.Random random = new java.util.Random(1);
        while (true) {
            int key = random.nextInt(keys);
            map.put(key, new Object[] {new byte[random.nextInt(2000)], "x" + key});
        }
    }

    public static void main(String[] args) throws Exception {
        System.out.println("READY " + ProcessHandle.current().pid());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            if (line.startsWith("go")) {
                sun.misc.Unsafe unsafe = unsafe();
                keep(unsafe);
                fill(args.length > 0 ? Integer.parseInt(args[0]) : 16);
                if (!line.equals("go young")) {
                    System.gc();
                }
                leave(unsafe);
                System.out.println("{\"cache\": [101, 200003], \"orders\": [53, 100003], \"local\": [7, 1000003],"
                        + " \"codecs\": [41, 50003], \"deflaters\": 31, \"inflaters\": 29, \"slices\": [5, 600011],"
                        + " \"handles\": [23, 80021], \"bare\": [1, 90001], \"deep\": [2, 300007],"
                        + " \"dropped_deflaters\": 61, \"dropped_buffers\": [83, 400009],"
                        + " \"dropped_codecs\": [37, 70001], \"lost\": [11, 60013]}");
            } else if (line.startsWith("busy")) {
                int keys = line.equals("busy old") ? 20_000 : 200;
                for (int i = 0; i < 2; i++) {
                    Thread thread = new Thread(() -> churn(keys), "busy-" + i);
                    thread.setDaemon(true);
                    thread.start();
                }
                System.out.println("{}");
            } else if (line.equals("collections")) {
                long count = 0;
                for (var bean : java.lang.management.ManagementFactory.getGarbageCollectorMXBeans()) {
                    count += bean.getCollectionCount();
                }
                System.out.println("{\"collections\": " + count + "}");
            }
            System.out.flush();
        }
        System.exit(0);
    }
}
