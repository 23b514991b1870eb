// SPDX-License-Identifier: Apache-2.0

import java.lang.invoke.MethodHandles;
import java.lang.management.ManagementFactory;
import java.lang.management.MemoryPoolMXBean;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.zip.Deflater;

/** Programs of the corpus in Java, the open half. labels.py says which of their methods leak. */
public final class Open {
    /** A direct buffer for each tenth order, among buffers that live for a second. */
    static final class OrderIndex {
        private final List<ByteBuffer> kept = new ArrayList<>();

        void retain() {
            kept.add(ByteBuffer.allocateDirect(20_000));
            Corpus.keep("OrderIndex.retain", 20_000, 1);
        }
    }

    static void churn() {
        Deflater deflater = new Deflater(Deflater.BEST_SPEED);
        deflater.setInput(new byte[64]);
        deflater.finish();
        deflater.deflate(new byte[128]);
        deflater.end();
    }

    static void directLeak() throws Exception {
        OrderIndex index = new OrderIndex();
        while (true) {
            if (Corpus.now % 10 == 0) {
                index.retain();
                churn();
            }
            Corpus.tick();
        }
    }

    /** Deflaters that are never ended. */
    static final class LogShipper {
        private final List<Deflater> kept = new ArrayList<>();

        int compress(byte[] text) {
            Deflater deflater = new Deflater();
            deflater.setInput(text);
            deflater.finish();
            int n = deflater.deflate(new byte[text.length + 64]);
            kept.add(deflater);
            Corpus.keep("LogShipper.compress", 268_096, 5);
            return n;
        }
    }

    static void deflaters() throws Exception {
        LogShipper shipper = new LogShipper();
        while (true) {
            if (Corpus.now % 10 == 0) {
                shipper.compress(new byte[4096]);
            }
            churn();
            Corpus.tick();
        }
    }

    /** A leak in a lambda that four threads of a pool run. */
    static final class ReportService {
        private final ExecutorService pool = Executors.newFixedThreadPool(4);
        private final List<ByteBuffer> kept = new ArrayList<>();

        void render() {
            ByteBuffer page = ByteBuffer.allocateDirect(7_000);
            synchronized (kept) {
                kept.add(page);
            }
            Corpus.keep("ReportService.render", 7_000, 1);
        }

        void request() {
            pool.execute(() -> render());
        }
    }

    static void executorLeak() throws Exception {
        ReportService service = new ReportService();
        while (true) {
            if (Corpus.now % 3 == 0) {
                service.request();
            }
            Corpus.tick();
        }
    }

    /** Bounded: an LRU cache of direct buffers, each freed when it leaves. */
    static final class TileCache extends LinkedHashMap<Integer, Long> {
        private static final long serialVersionUID = 1;

        TileCache() {
            super(256, 0.75f, true);
        }

        void load(int key) {
            if (get(key) == null) {
                put(key, Memory.UNSAFE.allocateMemory(5_000 + key));
            }
        }

        @Override
        protected boolean removeEldestEntry(Map.Entry<Integer, Long> eldest) {
            if (size() > 150) {
                Memory.UNSAFE.freeMemory(eldest.getValue());
                return true;
            }
            return false;
        }
    }

    static void lruOffHeap() throws Exception {
        TileCache cache = new TileCache();
        while (true) {
            cache.load(Corpus.RANDOM.nextInt(600));
            cache.load(Corpus.RANDOM.nextInt(600));
            Corpus.tick();
        }
    }

    /** Bounded: hidden classes and compiled code for the first three paces, then work. */
    static final class PluginHost {
        public static final class Template implements Runnable {
            private double sum;

            @Override
            public void run() {
                for (int i = 1; i < 3_000; i++) {
                    sum += Math.sqrt(i) / i;
                }
            }
        }

        private final List<Runnable> plugins = new ArrayList<>();

        /** The bytes of the template, from which classes are made. */
        static byte[] template() throws Exception {
            try (var in = Template.class.getResourceAsStream("Open$PluginHost$Template.class")) {
                return in.readAllBytes();
            }
        }

        void load() throws Exception {
            var lookup = MethodHandles.lookup().in(Template.class);
            Class<?> made = lookup.defineHiddenClass(template(), true).lookupClass();
            plugins.add((Runnable) made.getDeclaredConstructor().newInstance());
        }

        void serve() {
            plugins.get((int) (Corpus.now % plugins.size())).run();
        }
    }

    static void classesAndJit() throws Exception {
        PluginHost host = new PluginHost();
        while (true) {
            if (Corpus.now < 3 * Corpus.TICKS) {
                host.load();
            }
            host.serve();
            Corpus.tick();
        }
    }

    /** Leak: a hidden class for each request, kept by an instance of it. */
    static final class ScriptEngine {
        private static final MemoryPoolMXBean METASPACE = ManagementFactory.getMemoryPoolMXBeans().stream()
            .filter(pool -> pool.getName().equals("Metaspace")).findFirst().orElseThrow();
        /** Bytes of a hidden class by malloc, as Native Memory Tracking of JDK 17 says: class, symbols, handles. */
        private static final int TABLES = 1_310;
        private final List<Runnable> compiled = new ArrayList<>();
        private final byte[] bytes;

        ScriptEngine() throws Exception {
            bytes = PluginHost.template();
        }

        void compile() throws Exception {
            long before = METASPACE.getUsage().getCommitted();
            var lookup = MethodHandles.lookup().in(PluginHost.Template.class);
            Class<?> made = lookup.defineHiddenClass(bytes, true).lookupClass();
            compiled.add((Runnable) made.getDeclaredConstructor().newInstance());
            Corpus.keep("ScriptEngine.compile", METASPACE.getUsage().getCommitted() - before + TABLES, 1);
        }
    }

    static void classesLeak() throws Exception {
        ScriptEngine engine = new ScriptEngine();
        while (true) {
            engine.compile();
            Corpus.tick();
        }
    }

    /** Leak: a class loader for each deployment, kept by an instance of its class; its code is compiled too. */
    static final class Deployer {
        static final class AppLoader extends ClassLoader {
            AppLoader() {
                super(Open.class.getClassLoader());
            }

            Class<?> define(byte[] bytes) {
                return defineClass(null, bytes, 0, bytes.length);
            }
        }

        /** Bytes of a loader by malloc, as Native Memory Tracking of JDK 17 says: packages, modules, handles. */
        private static final int TABLES = 2_950;
        private final List<Runnable> deployed = new ArrayList<>();
        private final byte[] bytes;

        Deployer() throws Exception {
            bytes = PluginHost.template();
        }

        void deploy() throws Exception {
            long before = ScriptEngine.METASPACE.getUsage().getCommitted();
            Runnable app = (Runnable) new AppLoader().define(bytes).getDeclaredConstructor().newInstance();
            for (int i = 0; i < 20; i++) {
                app.run();
            }
            deployed.add(app);
            Corpus.keep("Deployer.deploy", ScriptEngine.METASPACE.getUsage().getCommitted() - before + TABLES, 1);
        }
    }

    static void deployments() throws Exception {
        Deployer deployer = new Deployer();
        while (true) {
            deployer.deploy();
            Corpus.tick();
        }
    }

    /** Bounded: code of classes from the start of the program, of which ever more is compiled, over the whole window. */
    static void hotCode() throws Exception {
        PluginHost host = new PluginHost();
        for (int i = 0; i < 3_000; i++) {
            host.load();
        }
        while (true) {
            Runnable next = host.plugins.get((int) (Corpus.now % host.plugins.size()));
            for (int i = 0; i < 20; i++) {
                next.run();
            }
            Corpus.tick();
        }
    }

    /** Bounded: direct buffers that only the collector frees, each two paces. */
    static final class Codec {
        void decode() {
            ByteBuffer.allocateDirect(9_000).put(0, (byte) 1);
        }
    }

    static void collectorSawtooth() throws Exception {
        Codec codec = new Codec();
        while (true) {
            codec.decode();
            if (Corpus.now % (2 * Corpus.TICKS) == 0) {
                System.gc();
            }
            Corpus.tick();
        }
    }

    /** Bounded: requests that are answered in the order they came, a fixed number at a time. */
    static final class Outbox {
        private final ArrayDeque<Long> waiting = new ArrayDeque<>();

        void enqueue() {
            waiting.add(Memory.UNSAFE.allocateMemory(2_500));
            if (waiting.size() > 120) {
                Memory.UNSAFE.freeMemory(waiting.poll());
            }
        }
    }

    static void boundedOutbox() throws Exception {
        Outbox outbox = new Outbox();
        while (true) {
            outbox.enqueue();
            Corpus.tick();
        }
    }

    /** Direct buffers that the collector frees each two paces, but for one in twenty. */
    static final class PageCache {
        private final List<ByteBuffer> pinned = new ArrayList<>();
        private int n;

        void fetch() {
            ByteBuffer page = ByteBuffer.allocateDirect(8_000);
            if (n++ % 20 == 0) {
                pinned.add(page);
                Corpus.keep("PageCache.fetch", 8_000, 1);
            }
        }
    }

    static void pinnedPages() throws Exception {
        PageCache pages = new PageCache();
        while (true) {
            pages.fetch();
            if (Corpus.now % (2 * Corpus.TICKS) == 0) {
                System.gc();
            }
            Corpus.tick();
        }
    }

    /** Memory of tasks that are chained; each eighth is never completed. */
    static final class Tickets {
        void issue(ExecutorService pool) {
            CompletableFuture.supplyAsync(() -> Memory.UNSAFE.allocateMemory(3_000), pool).thenAccept(this::settle);
        }

        private void settle(long address) {
            if (Corpus.RANDOM.nextInt(8) == 0) {
                Corpus.keep("Tickets.lambda$issue$0", 3_000, 1);
            } else {
                Memory.UNSAFE.freeMemory(address);
            }
        }
    }

    static void futures() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(3);
        Tickets tickets = new Tickets();
        while (true) {
            tickets.issue(pool);
            tickets.issue(pool);
            Corpus.tick();
        }
    }

    public static void main(String[] args) throws Exception {
        Corpus.run(Map.ofEntries(
            Map.entry("direct_leak", Open::directLeak),
            Map.entry("deflaters", Open::deflaters),
            Map.entry("executor_leak", Open::executorLeak),
            Map.entry("lru_off_heap", Open::lruOffHeap),
            Map.entry("classes_and_jit", Open::classesAndJit),
            Map.entry("classes_leak", Open::classesLeak),
            Map.entry("deployments", Open::deployments),
            Map.entry("hot_code", Open::hotCode),
            Map.entry("collector_sawtooth", Open::collectorSawtooth),
            Map.entry("bounded_outbox", Open::boundedOutbox),
            Map.entry("pinned_pages", Open::pinnedPages),
            Map.entry("futures", Open::futures)), args);
    }

    private Open() { }
}
