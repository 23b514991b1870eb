import java.util.concurrent.atomic.LongAdder;

/** Prints, each quarter of a second, what the program itself knows: T <epoch ms> <name>=<bytes>/<blocks> ... */
final class Truth {
    static final class Count {
        final String name; final LongAdder bytes = new LongAdder(), blocks = new LongAdder();
        Count(String name) { this.name = name; }
        void add(long size) { bytes.add(size); blocks.increment(); }
        void remove(long size) { bytes.add(-size); blocks.decrement(); }
    }
    static void report(Count... counts) {
        Thread thread = new Thread(() -> {
            while (true) {
                StringBuilder line = new StringBuilder("T ").append(System.currentTimeMillis());
                for (Count count : counts)
                    line.append(' ').append(count.name).append('=').append(count.bytes.sum()).append('/').append(count.blocks.sum());
                System.out.println(line);
                try { Thread.sleep(250); } catch (InterruptedException e) { return; }
            }
        }, "truth");
        thread.setDaemon(true);
        thread.start();
    }
    private Truth() { }
}
