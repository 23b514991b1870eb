// SPDX-License-Identifier: Apache-2.0

import java.util.List;
import java.util.Map;
import java.util.StringJoiner;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import sun.misc.Unsafe;

/**
 * Allocates a size that tells the caller's stack: each list of names seen for the first time gets the next multiple of 8.
 *
 * <p>The names are those of all frames of the thread, hidden ones as well. Blocks are given back at once.
 */
public final class OwnStack {
    private static final int FIRST_BYTES = 4096;
    private static final StackWalker WALKER = StackWalker.getInstance(StackWalker.Option.SHOW_HIDDEN_FRAMES);
    private static final Unsafe UNSAFE = TheUnsafe.get();
    private static final Map<List<String>, Integer> NUMBERS = new ConcurrentHashMap<>();
    private static final Map<Integer, AtomicLong> COUNTS = new ConcurrentHashMap<>();

    private OwnStack() {}

    private static String name(StackWalker.StackFrame frame) {
        return frame.getClassName() + "." + frame.getMethodName();
    }

    private static List<String> names(Stream<StackWalker.StackFrame> frames) {
        return frames.map(OwnStack::name).collect(Collectors.toList());
    }

    /** Allocate once, and count it. */
    public static Integer allocate() {
        List<String> names = WALKER.walk(OwnStack::names);
        Integer number = NUMBERS.get(names);
        if (number == null) {
            synchronized (NUMBERS) {
                int next = NUMBERS.size();
                number = NUMBERS.computeIfAbsent(names, key -> next);
            }
        }
        COUNTS.computeIfAbsent(number, key -> new AtomicLong()).incrementAndGet();
        UNSAFE.freeMemory(UNSAFE.allocateMemory(FIRST_BYTES + 8L * number));
        return number;
    }

    /** Without what the JVM adds to names of hidden classes: it is another in each run. */
    private static String readable(String name) {
        int dot = name.lastIndexOf('.');
        String type = name.substring(0, dot).replaceAll("[/+](0x)?[0-9a-f]+$", "");
        return '"' + type.replaceAll("\\$\\$Lambda\\$\\d+$", "\\$\\$Lambda") + name.substring(dot) + '"';
    }

    /** One line of JSON: all lists so far with their sizes, how often each allocated, and the frames, leaf first. */
    static String truth() {
        StringJoiner stacks = new StringJoiner(",");
        NUMBERS.forEach((names, number) -> {
            StringJoiner frames = new StringJoiner(",");
            names.forEach(name -> frames.add(readable(name)));
            stacks.add("{\"bytes\":" + (FIRST_BYTES + 8 * number) + ",\"count\":" + COUNTS.get(number)
                    + ",\"frames\":[" + frames + "]}");
        });
        return "{\"stacks\":[" + stacks + "]}";
    }
}
