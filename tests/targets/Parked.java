import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.StringJoiner;
import java.util.concurrent.locks.LockSupport;
import java.util.function.IntSupplier;

/**
 * Threads parked at the ends of known chains of calls. Each level of a chain is another kind of method, by its depth.
 *
 * <p>Usage: {@code Parked [warm-ups]}. After READY each line on stdin is a command: {@code truth} answers with one line
 * of JSON, a list of threads with tid, name and frames (class, method, file, line), leaf first; {@code quit} ends.
 */
public final class Parked {
    private static final String[] NAMES = {
        "plain",
        "reactor-http-epoll-12 with a name much longer than fifteen characters",
        "K\u00fcche \u00e9t\u00e9",
        "\u7dda\u7a0b-\u20ac-pool-3-thread-7",
        "clef \ud834\udd1e and a smile \ud83d\ude00",
    };
    private static final int DEPTH = 23;

    private static Method reflected;
    private static MethodHandle handle;

    private Parked() {}

    interface Step {
        int go(int depth);

        default int andOn(int depth) {
            return descend(depth - 1) + 1;
        }
    }

    static class Middle {
        final int sum;

        Middle(int depth) {
            sum = descend(depth - 1);
        }

        synchronized int locked(int depth) {
            synchronized (this) {
                return descend(depth - 1) + sum;
            }
        }

        final int small(int depth) {
            return smaller(depth);
        }

        private int smaller(int depth) {
            return descend(depth - 1);
        }
    }

    static final class Inner extends Middle implements Step {
        Inner() {
            super(-1);
        }

        @Override
        public int go(int depth) {
            return andOn(depth);
        }
    }

    private static final Inner INNER = new Inner();

    /** Goes one level deeper, on the way that the depth says; a depth below 0 comes back at once. */
    static int descend(int depth) {
        if (depth < 0) {
            return 0;
        }
        switch (depth) {
            case 0:
                return hold();
            case 3:
                return new Middle(depth).sum;
            case 5:
                return byReflection(depth);
            case 8:
                return byHandle(depth);
            default:
                break;
        }
        switch (depth % 5) {
            case 1:
                return new Inner().locked(depth);
            case 2:
                return INNER.small(depth);
            case 3:
                IntSupplier deeper = () -> descend(depth - 1);
                return deeper.getAsInt();
            case 4:
                return INNER.go(depth);
            default:
                return first(depth);
        }
    }

    private static int first(int depth) {
        return second(depth) + 1;
    }

    private static int second(int depth) {
        int sum = 0;
        for (int i = 0; i < 1; i++) {
            sum += descend(depth - 1);
        }
        return sum;
    }

    private static int byReflection(int depth) {
        try {
            return (Integer) reflected.invoke(null, depth);
        } catch (ReflectiveOperationException error) {
            throw new IllegalStateException(error);
        }
    }

    static int byHandle(int depth) {
        try {
            return (int) handle.invokeExact(depth);
        } catch (Throwable error) {
            throw new IllegalStateException(error);
        }
    }

    static int afterReflection(int depth) {
        return descend(depth - 1);
    }

    static int afterHandle(int depth) {
        return descend(depth - 1);
    }

    /** Always parks; during the warm-up there is nearly always a permit, so that it comes back at once. */
    private static int hold() {
        LockSupport.park();
        return 1;
    }

    private static final class Sleeper extends Thread {
        private final int warmUps;
        private final int depth;
        volatile long tid;
        volatile boolean isHolding;

        Sleeper(String name, int warmUps, int depth) {
            super(name);
            this.warmUps = warmUps;
            this.depth = depth;
            setDaemon(true);
        }

        @Override
        public void run() {
            try {
                String link = Files.readSymbolicLink(Path.of("/proc/thread-self")).toString();
                tid = Long.parseLong(link.substring(link.lastIndexOf('/') + 1));
            } catch (java.io.IOException error) {
                throw new IllegalStateException(error);
            }
            for (int i = 0; i < warmUps; i++) {
                LockSupport.unpark(this);
                descend(depth);
            }
            isHolding = true;
            while (true) {
                descend(depth);
            }
        }
    }

    private static String quoted(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder quoted = new StringBuilder("\"");
        for (char each : text.toCharArray()) {
            quoted.append(each < 0x20 || each > 0x7e || each == '"' || each == '\\'
                    ? String.format("\\u%04x", (int) each) : String.valueOf(each));
        }
        return quoted.append('"').toString();
    }

    private static String truth(List<Sleeper> sleepers) {
        StringJoiner threads = new StringJoiner(",", "[", "]");
        for (Sleeper sleeper : sleepers) {
            StringJoiner frames = new StringJoiner(",", "[", "]");
            for (StackTraceElement each : sleeper.getStackTrace()) {
                frames.add("[" + quoted(each.getClassName()) + "," + quoted(each.getMethodName()) + ","
                        + quoted(each.getFileName()) + "," + each.getLineNumber() + "]");
            }
            threads.add("{\"tid\":" + sleeper.tid + ",\"name\":" + quoted(sleeper.getName()) + ",\"frames\":" + frames + "}");
        }
        return threads.toString();
    }

    /** The JVM's own locks may use up a permit, so that a warm-up waits for another one. */
    private static void awaitParked(Sleeper sleeper) throws InterruptedException {
        while (!sleeper.isHolding) {
            LockSupport.unpark(sleeper);
            Thread.sleep(1);
        }
        while (sleeper.getState() != Thread.State.WAITING) {
            Thread.sleep(1);
        }
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws Exception {
        int warmUps = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 0;
        reflected = Parked.class.getDeclaredMethod("afterReflection", int.class);
        handle = MethodHandles.lookup().findStatic(
                Parked.class, "afterHandle", MethodType.methodType(int.class, int.class));
        PrintStream output = new PrintStream(System.out, true, StandardCharsets.US_ASCII);
        List<Sleeper> sleepers = new ArrayList<>();
        for (String name : NAMES) {
            Sleeper sleeper = new Sleeper(name, warmUps, DEPTH - sleepers.size());
            sleepers.add(sleeper);
            sleeper.start();
        }
        for (Sleeper sleeper : sleepers) {
            awaitParked(sleeper);
        }
        output.println("READY " + ProcessHandle.current().pid());
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null && !line.equals("quit"); line = input.readLine()) {
            switch (line) {
                case "truth":
                    output.println(truth(sleepers));
                    break;
                case "gc":
                    System.gc();
                    output.println("{}");
                    break;
                default:
                    System.err.println("target: unknown command " + line);
                    System.exit(70);
            }
        }
        Runtime.getRuntime().halt(0);
    }
}
