// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.security.AccessController;
import java.security.PrivilegedAction;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Supplier;

/**
 * Allocates from many chains of calls, each time a size that tells the chain: a tracer can check its own stacks.
 *
 * <p>Usage: {@code Truth [THREADS [DEOPT [NAME]]]}. A chain is up to 24 steps of sixteen kinds (m0 to m15), chosen by a
 * random generator with a fixed seed; at its end is OwnStack. With DEOPT, one call in so many loads a class first that
 * makes compiled code on the stack invalid. NAME is how the threads' names begin.
 *
 * <p>Prints {@code READY pid}. {@code warm N} runs N chains that allocate nothing, {@code go N} as many that do; both
 * answer with one line of JSON, {@code go} with OwnStack's truth. The threads live until stdin ends.
 */
@SuppressWarnings("removal")
public class Truth {
    private static final int N_KINDS = 16;
    private static final int N_CHAINS = 211;
    private static final int MAX_STEPS = 24;
    private static final byte[][] CHAINS = chains();

    private static boolean silent;
    private static String name = "truth-";
    private static int deoptEvery;
    private static final AtomicLong CALLS = new AtomicLong();

    private static byte[][] chains() {
        Random random = new Random(7);
        byte[][] chains = new byte[N_CHAINS][];
        for (int i = 0; i < N_CHAINS; i++) {
            chains[i] = new byte[random.nextInt(MAX_STEPS + 1)];
            for (int j = 0; j < chains[i].length; j++) {
                chains[i][j] = (byte) random.nextInt(N_KINDS);
            }
        }
        return chains;
    }

    // ---- the end of a chain ----

    static Object allocate() {
        long call = CALLS.incrementAndGet();
        if (silent) {
            return call;
        }
        if (deoptEvery > 0 && call % deoptEvery == 0) {
            Overrider.load();
        }
        return OwnStack.allocate();
    }

    // ---- sixteen kinds of steps ----

    static Object next(byte[] chain, int at) {
        if (at == chain.length) {
            return allocate();
        }
        int after = at + 1;
        switch (chain[at]) {
            case 0:
                return m0(chain, after);
            case 1:
                return new Locked().m1(chain, after);
            case 2:
                return m2(chain, after);
            case 3:
                return m3(chain, after);
            case 4:
                return m4(chain, after);
            case 5:
                return m5(chain, after);
            case 6:
                return m6(chain, after);
            case 7:
                return m7(chain, after);
            case 8:
                return SHAPES[(after * 7 + chain.length) % SHAPES.length].m8(chain, after);
            case 9:
                return SHAPES[after % SHAPES.length].m9(chain, after);
            case 10:
                return new Made(chain, after).result;
            case 11:
                return m11(chain, after, 3);
            case 12:
                return m12(chain, after);
            case 13:
                return PROXY.m13(chain, after);
            case 14:
                return m14(chain, after);
            default:
                return Overrider.few.m15(chain, after);
        }
    }

    private static Object m0(byte[] chain, int at) {
        return next(chain, at);
    }

    private static class Locked {
        synchronized Object m1(byte[] chain, int at) {
            synchronized (CHAINS) {
                return next(chain, at).hashCode();
            }
        }
    }

    private static final Method REFLECTED = reflected();
    private static final MethodHandle HANDLE = handle();

    private static Method reflected() {
        try {
            return Truth.class.getDeclaredMethod("next", byte[].class, int.class);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    private static MethodHandle handle() {
        try {
            MethodType type = MethodType.methodType(Object.class, byte[].class, int.class);
            return MethodHandles.lookup().findStatic(Truth.class, "next", type);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    private static Object m2(byte[] chain, int at) {
        try {
            return REFLECTED.invoke(null, chain, at);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    private static Object m3(byte[] chain, int at) {
        try {
            return HANDLE.invoke(chain, (Integer) at);
        } catch (Throwable e) {
            throw new IllegalStateException(e);
        }
    }

    private static Object m4(byte[] chain, int at) {
        Supplier<Object> step = () -> next(chain, at);
        return step.get();
    }

    private static Object m5(byte[] chain, int at) {
        return Arrays.asList(1, 2, 3).stream().map(x -> x == 2 ? next(chain, at) : "").filter(x -> x != null).count();
    }

    private static Object m6(byte[] chain, int at) {
        return AccessController.doPrivileged((PrivilegedAction<Object>) () -> next(chain, at));
    }

    private static Object m7(byte[] chain, int at) {
        TreeMap<String, Object> map = new TreeMap<>((a, b) -> {
            if (a.equals("q")) {
                next(chain, at);
            }
            return a.compareTo(b);
        });
        map.put("a", 1);
        map.put("q", 2);
        return map;
    }

    interface Shape {
        Object m8(byte[] chain, int at);

        default Object m9(byte[] chain, int at) {
            return m8(chain, at);
        }
    }

    private static final class Round implements Shape {
        @Override
        public Object m8(byte[] chain, int at) {
            return next(chain, at);
        }
    }

    private static final class Square implements Shape {
        @Override
        public Object m8(byte[] chain, int at) {
            return next(chain, at).toString();
        }

        @Override
        public Object m9(byte[] chain, int at) {
            return next(chain, at);
        }
    }

    private static final class Other implements Shape {
        @Override
        public Object m8(byte[] chain, int at) {
            Object result = next(chain, at);
            return result == null ? "" : result;
        }
    }

    private static final Shape[] SHAPES = {new Round(), new Square(), new Other()};

    private static final class Made {
        final Object result;

        Made(byte[] chain, int at) {
            result = next(chain, at);
        }
    }

    private static Object m11(byte[] chain, int at, int deeper) {
        return deeper == 0 ? next(chain, at) : m11(chain, at, deeper - 1);
    }

    private static Object m12(byte[] chain, int at) {
        try {
            throw new IllegalArgumentException("expected");
        } catch (IllegalArgumentException e) {
            return next(chain, at);
        } finally {
            CALLS.lazySet(CALLS.get());
        }
    }

    interface Proxied {
        Object m13(byte[] chain, int at);
    }

    private static final InvocationHandler HANDLER = (self, method, arguments) ->
            next((byte[]) arguments[0], (Integer) arguments[1]);
    private static final Proxied PROXY =
            (Proxied) Proxy.newProxyInstance(Truth.class.getClassLoader(), new Class<?>[] {Proxied.class}, HANDLER);

    private static Object m14(byte[] chain, int at) {
        Object[] result = new Object[1];
        new ArrayList<>(List.of(1, 2)).forEach(x -> result[0] = x == 2 ? next(chain, at) : null);
        return result[0];
    }

    /** The compiler takes m15 for the only one there is, until a subclass is loaded that has its own. */
    public static class Overrider {
        static volatile Overrider few = new Overrider();

        public Object m15(byte[] chain, int at) {
            return next(chain, at);
        }

        private static byte[] code;

        /** Load one more subclass; compiled code that knew of none becomes invalid. */
        static synchronized void load() {
            try {
                if (code == null) {
                    try (InputStream file = Truth.class.getResourceAsStream("Truth$Later.class")) {
                        code = file.readAllBytes();
                    }
                }
                Class<?> later = new ClassLoader(Truth.class.getClassLoader()) {
                    Class<?> define() {
                        return defineClass("Truth$Later", code, 0, code.length);
                    }
                }.define();
                later.getDeclaredConstructor().newInstance();
            } catch (ReflectiveOperationException | IOException e) {
                throw new IllegalStateException(e);
            }
        }
    }

    /** Loaded by loaders of its own only. */
    public static class Later extends Overrider {
        @Override
        public Object m15(byte[] chain, int at) {
            return "never called";
        }
    }

    // ---- the process ----

    private static void run(int index, long n, CountDownLatch done) {
        Random random = new Random(index);
        for (long left = n; left > 0; ) {
            byte[] chain = CHAINS[random.nextInt(N_CHAINS)];
            for (int i = 0; i < 7 && left > 0; i++, left--) {
                next(chain, 0);
            }
        }
        done.countDown();
    }

    private static void runAll(int nThreads, long n) throws InterruptedException {
        CountDownLatch done = new CountDownLatch(nThreads);
        for (int i = 0; i < nThreads; i++) {
            int index = i;
            Thread thread = new Thread(() -> {
                run(index, n / nThreads + (index < n % nThreads ? 1 : 0), done);
                park();
            }, name + i);
            thread.setDaemon(true);
            thread.start();
        }
        done.await();
    }

    /** Until the end of the process: what a tracer knows of a thread is best kept while it lives. */
    private static synchronized void park() {
        while (true) {
            try {
                Truth.class.wait();
            } catch (InterruptedException e) {
                return;
            }
        }
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws Exception {
        name = arguments.length > 2 ? arguments[2] : name;
        int nThreads = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 2;
        int every = arguments.length > 1 ? Integer.parseInt(arguments[1]) : 0;
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            silent = words[0].equals("warm");
            deoptEvery = silent ? 0 : every;
            runAll(nThreads, Long.parseLong(words[1]));
            System.out.println(silent ? "{}" : OwnStack.truth());
        }
        Runtime.getRuntime().halt(0);
    }
}
