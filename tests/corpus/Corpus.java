// SPDX-License-Identifier: Apache-2.0

import java.util.Map;
import java.util.Random;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.atomic.LongAdder;

/** What the programs in Java share: the pace, and the truth in the lines that corpus.h describes. */
final class Corpus {
    static final int TICKS = 100;
    static final Random RANDOM = new Random(11);
    private static final Map<String, LongAdder[]> KEPT = new ConcurrentSkipListMap<>();
    static volatile long now;
    static double pace = 1.0;
    private static long start;

    interface Scenario {
        void run() throws Exception;
    }

    /** Note that a method has kept blocks for ever; from any thread. */
    static void keep(String method, long bytes, long blocks) {
        LongAdder[] sums = KEPT.computeIfAbsent(method, key -> new LongAdder[] {new LongAdder(), new LongAdder()});
        sums[0].add(bytes);
        sums[1].add(blocks);
    }

    static void sleep(double paces) throws InterruptedException {
        long ns = (long) (paces * pace * 1e9);
        Thread.sleep(ns / 1_000_000, (int) (ns % 1_000_000));
    }

    /** Wait for the next of the TICKS of a pace; tell the truth four times in a pace. The main thread calls it. */
    static void tick() throws InterruptedException {
        now++;
        long wait = start + (long) (now * pace * 1e9 / TICKS) - System.nanoTime();
        if (wait > 0) {
            Thread.sleep(wait / 1_000_000, (int) (wait % 1_000_000));
        }
        if (now % (TICKS / 4) == 0) {
            StringBuilder line = new StringBuilder("T ").append(System.currentTimeMillis());
            KEPT.forEach((method, sums) ->
                line.append(' ').append(method).append('=').append(sums[0].sum()).append('/').append(sums[1].sum()));
            System.out.println(line);
        }
    }

    static void run(Map<String, Scenario> scenarios, String[] args) throws Exception {
        Scenario scenario = args.length > 0 ? scenarios.get(args[0]) : null;
        if (scenario == null) {
            System.err.println("usage: PROGRAM SCENARIO PACE; scenarios: " + scenarios.keySet());
            System.exit(2);
        }
        pace = args.length > 1 ? Double.parseDouble(args[1]) : 1.0;
        start = System.nanoTime();
        System.out.println("READY " + ProcessHandle.current().pid());
        scenario.run();
    }

    private Corpus() { }
}
