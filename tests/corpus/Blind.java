// SPDX-License-Identifier: Apache-2.0

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.Selector;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.zip.DataFormatException;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

/** Programs of the corpus in Java, the blind half. labels.py says which of their methods leak. */
public final class Blind {
    /** Unsafe memory that its owner frees. */
    static final class Block implements AutoCloseable {
        final long size;
        final long address;

        Block(long size) {
            this.size = size;
            address = Memory.UNSAFE.allocateMemory(size);
            Memory.UNSAFE.setMemory(address, size, (byte) 1);
        }

        @Override
        public void close() {
            Memory.UNSAFE.freeMemory(address);
        }
    }

    static long serve(int largest) {
        try (Block request = new Block(100 + Corpus.RANDOM.nextInt(largest))) {
            return request.size + Memory.UNSAFE.getByte(request.address);
        }
    }

    /** The pixels of a picture. */
    static final class NativeImage {
        private final long address;
        private final int size;

        private NativeImage(long address, int size) {
            this.address = address;
            this.size = size;
        }

        static NativeImage decode(int width, int height) {
            int size = width * height * 3;
            long address = Memory.UNSAFE.allocateMemory(size);
            Memory.UNSAFE.setMemory(address, size, (byte) 128);
            return new NativeImage(address, size);
        }

        int scale(int seed) {
            if (seed % 20 == 0) {
                throw new IllegalArgumentException("colour profile of no known kind");
            }
            return Memory.UNSAFE.getByte(address + seed % size);
        }

        void close() {
            Memory.UNSAFE.freeMemory(address);
        }
    }

    /** Closes a picture where the scaling succeeds; 1 of 20 fails. Beside it: the 150 last thumbnails. */
    static final class Thumbnailer {
        private final Deque<Block> ready = new ArrayDeque<>();

        int render(int seed) {
            int width = 100 + seed % 60;
            NativeImage image = NativeImage.decode(width, 100);
            int grey;
            try {
                grey = image.scale(seed);
            } catch (IllegalArgumentException e) {
                Corpus.keep("Thumbnailer.render", width * 300L, 1);
                return -1;
            }
            image.close();
            ready.add(new Block(3000 + grey));
            if (ready.size() > 150) {
                ready.remove().close();
            }
            return grey;
        }
    }

    static void thumbnails() throws Exception {
        Thumbnailer thumbnailer = new Thumbnailer();
        while (true) {
            for (int i = 0; i < 2; i++) {
                thumbnailer.render(Corpus.RANDOM.nextInt(100_000));
                for (int j = 0; j < 15; j++) {
                    serve(2000);
                }
            }
            Corpus.tick();
        }
    }

    /**
     * Each tenant has a ThreadLocal of its own. Its value knows the tenant, so the threads of a pool, which live for
     * ever, keep the values of tenants that are gone. Beside it: a ring of 64 blocks, and blocks of a moment.
     */
    static final class TenantCodec {
        private static final class Scratch {
            final TenantCodec owner;
            final ByteBuffer buffer;

            Scratch(TenantCodec owner, ByteBuffer buffer) {
                this.owner = owner;
                this.buffer = buffer;
            }
        }

        private final ThreadLocal<Scratch> local = new ThreadLocal<>();

        ByteBuffer scratch() {
            Scratch scratch = local.get();
            if (scratch == null) {
                scratch = new Scratch(this, ByteBuffer.allocateDirect(12_000));
                local.set(scratch);
                Corpus.keep("TenantCodec.scratch", 12_000, 1);
            }
            return scratch.buffer.clear();
        }

        void encode(int n) {
            ByteBuffer buffer = scratch();
            for (int i = 0; i < n; i++) {
                buffer.putLong(i);
            }
        }
    }

    static void tenantScratch() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        Block[] ring = new Block[64];
        TenantCodec tenant = new TenantCodec();
        while (true) {
            if (Corpus.now % 10 == 0) {
                tenant = new TenantCodec();
            }
            TenantCodec current = tenant;
            int n = Corpus.RANDOM.nextInt(1000);
            pool.execute(() -> current.encode(n));
            int at = Corpus.RANDOM.nextInt(ring.length);
            if (ring[at] != null) {
                ring[at].close();
            }
            ring[at] = new Block(5000 + n * 10L);
            serve(9000);
            Corpus.tick();
        }
    }

    /**
     * Each attempt to connect opens another Selector, 4 in a pace. None of them is closed. A Selector has a table of
     * native memory: 12 bytes for each of up to 1,024 events.
     */
    static final class FeedClient {
        private Selector selector;

        void reconnect() throws IOException {
            selector = Selector.open();
            selector.selectNow();
            Corpus.keep("FeedClient.reconnect", 12_288, 1);
        }
    }

    /** A client that closes what it opens. */
    static final class HealthProbe {
        int check() throws IOException {
            try (Selector selector = Selector.open()) {
                return selector.selectNow();
            }
        }
    }

    static void selectors() throws Exception {
        FeedClient client = new FeedClient();
        HealthProbe probe = new HealthProbe();
        Deque<Block> frames = new ArrayDeque<>();
        while (true) {
            if (Corpus.now % 25 == 0) {
                client.reconnect();
            }
            if (Corpus.now % 5 == 0) {
                probe.check();
            }
            frames.add(new Block(500 + Corpus.RANDOM.nextInt(20_000)));
            if (frames.size() > 80 + Corpus.RANDOM.nextInt(40)) {
                frames.remove().close();
                frames.remove().close();
            }
            serve(4000);
            Corpus.tick();
        }
    }

    /** Timers by label: 40 routes, and about 30 in a pace whose label has the name of a customer in it. */
    static final class LabelledTimers {
        private final Map<String, Block> timers = new HashMap<>();

        Block timer(String label) {
            Block timer = timers.get(label);
            if (timer == null) {
                timer = new Block(1600);
                timers.put(label, timer);
                if (label.startsWith("customer")) {
                    Corpus.keep("LabelledTimers.timer", 1600, 1);
                }
            }
            return timer;
        }

        void record(String label) {
            Block timer = timer(label);
            long at = timer.address + 8L * Corpus.RANDOM.nextInt(200);
            Memory.UNSAFE.putLong(at, Memory.UNSAFE.getLong(at) + 1);
        }
    }

    /** Takes another buffer each pace; the full ones wait for an archive that never answers. */
    static final class AccessLog {
        private final List<ByteBuffer> unsent = new ArrayList<>();
        private ByteBuffer current = ByteBuffer.allocateDirect(700_000);

        void line(int customer) {
            current.putInt(customer);
        }

        void rollover() {
            unsent.add(current);
            current = ByteBuffer.allocateDirect(700_000);
            Corpus.keep("AccessLog.rollover", 700_000, 1);
        }
    }

    static void timersAndLog() throws Exception {
        LabelledTimers timers = new LabelledTimers();
        AccessLog log = new AccessLog();
        int customer = 0;
        while (true) {
            for (int i = 0; i < 3; i++) {
                serve(6000);
                timers.record("route-" + Corpus.RANDOM.nextInt(40));
                log.line(customer);
            }
            if (Corpus.RANDOM.nextInt(10) < 3) {
                timers.record("customer-" + customer++);
            }
            if (Corpus.now % Corpus.TICKS == 50) {
                log.rollover();
            }
            Corpus.tick();
        }
    }

    /**
     * Bounded: a store that is compacted. A segment of 60 to 100 kB each tenth of a pace; eight of them are merged
     * with the old level of up to 24 into a new one, and the old ones are freed a quarter of a pace later.
     */
    static final class SegmentStore {
        private final Deque<Block> fresh = new ArrayDeque<>();
        private final List<Block> retired = new ArrayList<>();
        private List<Block> level = new ArrayList<>();

        void flush() {
            fresh.add(new Block(60_000 + Corpus.RANDOM.nextInt(40_000)));
        }

        void compact() {
            List<Block> merged = new ArrayList<>();
            int n = Math.min(24, level.size() + fresh.size());
            for (int i = 0; i < n; i++) {
                merged.add(new Block(80_000));
            }
            retired.addAll(level);
            retired.addAll(fresh);
            fresh.clear();
            level = merged;
        }

        void reclaim() {
            retired.forEach(Block::close);
            retired.clear();
        }
    }

    static void compaction() throws Exception {
        SegmentStore store = new SegmentStore();
        while (true) {
            if (Corpus.now % 10 == 0) {
                store.flush();
            }
            if (Corpus.now % 80 == 75) {
                store.compact();
            }
            if (Corpus.now % 80 == 20) {
                store.reclaim();
            }
            serve(5000);
            serve(300);
            Corpus.tick();
        }
    }

    /**
     * Bounded: a Deflater, an Inflater and a buffer for each of six workers. A worker begins each half pace for three
     * paces, and has them from its first message on; then they are used again and again.
     */
    static final class CodecSet {
        private final Deflater deflater = new Deflater(Deflater.BEST_SPEED, true);
        private final Inflater inflater = new Inflater(true);
        private final ByteBuffer packed = ByteBuffer.allocateDirect(64_000);
        private final ByteBuffer plain = ByteBuffer.allocateDirect(64_000);

        int roundTrip(byte[] message) throws DataFormatException {
            deflater.reset();
            inflater.reset();
            deflater.setInput(message);
            deflater.finish();
            packed.clear();
            plain.clear();
            deflater.deflate(packed);
            inflater.setInput(packed.flip());
            return inflater.inflate(plain);
        }
    }

    static final ThreadLocal<CodecSet> CODECS = ThreadLocal.withInitial(CodecSet::new);

    static void codecWorker() {
        byte[] message = new byte[2000];
        try {
            while (true) {
                message[Corpus.RANDOM.nextInt(message.length)]++;
                CODECS.get().roundTrip(message);
                serve(3000);
                Corpus.sleep(0.02);
            }
        } catch (InterruptedException | DataFormatException e) {
            throw new IllegalStateException(e);
        }
    }

    static void codecWarmUp() throws Exception {
        int workers = 0;
        while (true) {
            if (Corpus.now % 50 == 25 && workers < 6) {
                workers++;
                Thread worker = new Thread(Blind::codecWorker, "codec-" + workers);
                worker.setDaemon(true);
                worker.start();
            }
            Corpus.tick();
        }
    }

    /**
     * Bounded: a cache of answers of 0.5 to 64 kB. At most 8 MB, at most two paces old, and half of it is thrown away
     * by name each three paces. Two threads ask.
     */
    static final class ResponseCache {
        private static final class Entry {
            final Block body;
            final long until;

            Entry(Block body, long until) {
                this.body = body;
                this.until = until;
            }
        }

        private final LinkedHashMap<Integer, Entry> entries = new LinkedHashMap<>(64, 0.75f, true);
        private long weight;

        synchronized void get(int key) {
            Entry entry = entries.get(key);
            if (entry != null && entry.until > Corpus.now) {
                return;
            }
            if (entry != null) {
                drop(entries.remove(key));
            }
            load(key);
            Iterator<Entry> oldest = entries.values().iterator();
            while (weight > 8_000_000) {
                drop(oldest.next());
                oldest.remove();
            }
        }

        synchronized void invalidate(int odd) {
            Iterator<Map.Entry<Integer, Entry>> all = entries.entrySet().iterator();
            while (all.hasNext()) {
                Map.Entry<Integer, Entry> next = all.next();
                if (next.getKey() % 2 == odd) {
                    drop(next.getValue());
                    all.remove();
                }
            }
        }

        private void load(int key) {
            Block body = new Block((long) (512 * Math.pow(2, key % 71 / 10.0)));
            weight += body.size;
            entries.put(key, new Entry(body, Corpus.now + 2L * Corpus.TICKS));
        }

        private void drop(Entry entry) {
            weight -= entry.body.size;
            entry.body.close();
        }
    }

    static void responseCache() throws Exception {
        ResponseCache cache = new ResponseCache();
        Thread reader = new Thread(() -> {
            try {
                while (true) {
                    cache.get((int) Math.abs(Corpus.RANDOM.nextGaussian() * 700));
                    serve(2000);
                    Corpus.sleep(0.005);
                }
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        });
        reader.setDaemon(true);
        reader.start();
        while (true) {
            for (int i = 0; i < 4; i++) {
                cache.get((int) Math.abs(Corpus.RANDOM.nextGaussian() * 700));
            }
            if (Corpus.now % 300 == 299) {
                cache.invalidate((int) (Corpus.now / 300 % 2));
            }
            Corpus.tick();
        }
    }

    public static void main(String[] args) throws Exception {
        Corpus.run(Map.of(
            "thumbnails", Blind::thumbnails,
            "tenant_scratch", Blind::tenantScratch,
            "selectors", Blind::selectors,
            "timers_and_log", Blind::timersAndLog,
            "compaction", Blind::compaction,
            "codec_warm_up", Blind::codecWarmUp,
            "response_cache", Blind::responseCache), args);
    }

    private Blind() { }
}
