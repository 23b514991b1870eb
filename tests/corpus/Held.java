// SPDX-License-Identifier: Apache-2.0

import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.zip.Inflater;

/** Programs of the corpus in Java, the held half: only for the final measurement. labels.py says which methods leak. */
public final class Held {
    /** Two callers of one method that opens: one ends its Inflaters, the other does not. */
    static final class Codecs {
        static final List<Inflater> KEPT = new ArrayList<>();

        static Inflater open() {
            return new Inflater();
        }

        static void preview() throws Exception {
            Inflater inflater = open();
            inflater.setInput(new byte[] {120, -100, 3, 0, 0, 0, 0, 1});
            inflater.inflate(new byte[16]);
            inflater.end();
        }

        static void restore() {
            KEPT.add(open());
            Corpus.keep("Codecs.restore", 7_160, 1);
        }
    }

    static void inflaters() throws Exception {
        while (true) {
            Codecs.preview();
            if (Corpus.now % 4 == 0) {
                Codecs.restore();
            }
            Corpus.tick();
        }
    }

    /** Mapped files that nobody unmaps. */
    static final class Segments {
        private final List<MappedByteBuffer> kept = new ArrayList<>();
        private final Path file;

        Segments() throws Exception {
            file = Files.createTempFile("segments", ".idx");
            try (RandomAccessFile whole = new RandomAccessFile(file.toFile(), "rw")) {
                whole.setLength(1 << 20);
            }
            file.toFile().deleteOnExit();
        }

        void open() throws Exception {
            try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
                MappedByteBuffer segment = channel.map(FileChannel.MapMode.READ_ONLY, 0, 1 << 20);
                for (int at = 0; at < 1 << 20; at += 4096) {
                    segment.get(at);
                }
                kept.add(segment);
                Corpus.keep("Segments.open", 1 << 20, 1);
            }
        }
    }

    static void mappedFiles() throws Exception {
        Segments segments = new Segments();
        while (true) {
            if (Corpus.now % 25 == 0) {
                segments.open();
            }
            Corpus.tick();
        }
    }

    /** One block in forty is lost from a map off the heap. */
    static final class OffHeapMap {
        void put(long n) {
            long block = Memory.UNSAFE.allocateMemory(3_000);
            Memory.UNSAFE.setMemory(block, 3_000, (byte) 1);
            if (n % 40 == 0) {
                Corpus.keep("OffHeapMap.put", 3_000, 1);
            } else {
                Memory.UNSAFE.freeMemory(block);
            }
        }
    }

    static void oneInForty() throws Exception {
        OffHeapMap map = new OffHeapMap();
        long n = 0;
        while (true) {
            for (int i = 0; i < 4; i++) {
                map.put(n++);
            }
            Corpus.tick();
        }
    }

    /** A timer, and so a thread, for each reminder; none is cancelled. */
    static final class Reminders {
        void schedule() {
            Timer timer = new Timer(true);
            timer.schedule(new TimerTask() {
                @Override
                public void run() {
                    Thread.yield();
                }
            }, 1, 60_000);
            Corpus.keep("Reminders.schedule", 1, 1);
        }
    }

    static void threadLeak() throws Exception {
        Reminders reminders = new Reminders();
        while (true) {
            if (Corpus.now % 20 == 0) {
                reminders.schedule();
            }
            Corpus.tick();
        }
    }

    /** Bounded: direct memory that lives for two paces. */
    static final class Leases {
        private final ArrayDeque<long[]> alive = new ArrayDeque<>();

        void grant() {
            alive.add(new long[] {Corpus.now + 2 * Corpus.TICKS, Memory.UNSAFE.allocateMemory(4_000)});
            while (alive.peek()[0] <= Corpus.now) {
                Memory.UNSAFE.freeMemory(alive.poll()[1]);
            }
        }
    }

    static void leases() throws Exception {
        Leases leases = new Leases();
        while (true) {
            leases.grant();
            Corpus.tick();
        }
    }

    /** Bounded: a pool of direct buffers with a high-water mark. */
    static final class BufferPool {
        private final ArrayDeque<ByteBuffer> idle = new ArrayDeque<>();

        ByteBuffer take() {
            ByteBuffer buffer = idle.poll();
            return buffer == null ? ByteBuffer.allocateDirect(16_384) : buffer;
        }
    }

    static void bufferPool() throws Exception {
        BufferPool pool = new BufferPool();
        ArrayDeque<ByteBuffer> busy = new ArrayDeque<>();
        while (true) {
            int wanted = Corpus.RANDOM.nextInt(40) + Corpus.RANDOM.nextInt(40);
            while (busy.size() < wanted) {
                busy.add(pool.take());
            }
            while (busy.size() > wanted) {
                pool.idle.add(busy.poll());
            }
            Corpus.tick();
        }
    }

    /** Bounded: a pool of threads that grows to ten under load. */
    static final class WorkerPool {
        private final ThreadPoolExecutor executor =
            new ThreadPoolExecutor(10, 10, 1, TimeUnit.HOURS, new LinkedBlockingQueue<>());

        void submit() {
            executor.execute(() -> {
                byte[] work = new byte[20_000];
                for (int i = 0; i < work.length; i++) {
                    work[i] = (byte) (i * 31);
                }
            });
        }
    }

    static void workerPool() throws Exception {
        WorkerPool pool = new WorkerPool();
        while (true) {
            if (Corpus.now % 20 == 0) {
                pool.submit();
            }
            Corpus.tick();
        }
    }

    public static void main(String[] args) throws Exception {
        Corpus.run(Map.of("inflaters", Held::inflaters, "mapped_files", Held::mappedFiles, "one_in_forty", Held::oneInForty,
            "thread_leak", Held::threadLeak, "leases", Held::leases, "buffer_pool", Held::bufferPool,
            "worker_pool", Held::workerPool), args);
    }

    private Held() { }
}
