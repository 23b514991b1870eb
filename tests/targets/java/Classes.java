// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.lang.instrument.ClassDefinition;
import java.lang.instrument.Instrumentation;
import java.lang.instrument.UnmodifiableClassException;
import java.nio.charset.StandardCharsets;

/**
 * Classes that come and go, each with methods of its own name, and one that is redefined all the time.
 *
 * <p>Usage: {@code Classes [CALLS]}. {@code go N} loads N classes one after the other, each by a loader of its own: the
 * methods of the 17th are called outer00017 and inner00017, and allocate as OwnStack does, CALLS times (31). Loaders are
 * dropped at once; every few classes the collector runs, so that addresses are used again. Run with this class as
 * {@code -javaagent}, compiled methods are exchanged while they are on the stack, after each class.
 *
 * <p>Prints {@code READY pid}; {@code go} answers with OwnStack's truth, one line of JSON.
 */
public final class Classes {
    private static final String NUMBER = "00000";
    private static final int COLLECT_EVERY = 23;
    private static Instrumentation instrumentation;

    private Classes() {}

    public static void premain(String arguments, Instrumentation given) {
        instrumentation = given;
    }

    /** What all classes that come and go are made from. */
    public static class Made00000 implements Runnable {
        @Override
        public void run() {
            outer00000();
        }

        private void outer00000() {
            inner00000();
        }

        private void inner00000() {
            OwnStack.allocate();
        }
    }

    /** Its method turn calls one of the two others; which one is exchanged, while they are on the stack. */
    public static class Turned {
        static void turn(int depth) {
            if (depth == 0) {
                Classes.end();
            } else {
                viaA(depth - 1);
            }
        }

        static void viaA(int depth) {
            turn(depth);
        }

        static void viaB(int depth) {
            turn(depth);
        }
    }

    private static final int TURNS = 11;
    private static final int WARM_UPS = 3001;
    private static byte[] next;

    /** Where all turns end: with new code for them, the code of all on the stack is invalid. */
    static void end() {
        if (next == null) {
            return;
        }
        try {
            OwnStack.allocate();
            instrumentation.redefineClasses(new ClassDefinition(Turned.class, next));
            OwnStack.allocate();
        } catch (ClassNotFoundException | UnmodifiableClassException e) {
            throw new IllegalStateException(e);
        }
    }

    private static void turnAround(byte[] code) {
        next = null;
        for (int i = 0; i < WARM_UPS; i++) {
            Turned.turn(TURNS);
        }
        next = code;
        Turned.turn(TURNS);
    }

    private static byte[] read(String name) throws IOException {
        try (InputStream file = Classes.class.getResourceAsStream(name)) {
            return file.readAllBytes();
        }
    }

    /** Exchange a text in a class file for another of the same length. */
    private static byte[] replaced(byte[] code, String from, String to) {
        String text = new String(code, StandardCharsets.ISO_8859_1);
        return text.replace(from, to).getBytes(StandardCharsets.ISO_8859_1);
    }

    private static void runMade(byte[] template, int number, int nCalls) throws ReflectiveOperationException {
        String digits = String.format("%05d", number);
        byte[] code = replaced(template, NUMBER, digits);
        Class<?> made = new ClassLoader(Classes.class.getClassLoader()) {
            Class<?> define() {
                return defineClass("Classes$Made" + digits, code, 0, code.length);
            }
        }.define();
        Runnable task = (Runnable) made.getDeclaredConstructor().newInstance();
        for (int i = 0; i < nCalls; i++) {
            task.run();
        }
    }

    private static void runAll(int n, int nCalls) throws Exception {
        byte[] template = read("Classes$Made00000.class");
        byte[] straight = read("Classes$Turned.class");
        byte[] crossed = replaced(replaced(replaced(straight, "viaA", "viaX"), "viaB", "viaA"), "viaX", "viaB");
        for (int i = 0; i < n; i++) {
            runMade(template, i, nCalls);
            if (instrumentation != null) {
                turnAround(i % 2 == 0 ? crossed : straight);
            }
            if (i % COLLECT_EVERY == 0) {
                System.gc();
            }
        }
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws Exception {
        int nCalls = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 31;
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            int n = Integer.parseInt(line.split(" ")[1]);
            Thread thread = new Thread(() -> {
                try {
                    runAll(n, nCalls);
                } catch (Exception e) {
                    e.printStackTrace();
                    Runtime.getRuntime().halt(70);
                }
                System.out.println(OwnStack.truth());
                park();
            }, "classes");
            thread.setDaemon(true);
            thread.start();
        }
        Runtime.getRuntime().halt(0);
    }

    private static synchronized void park() {
        while (true) {
            try {
                Classes.class.wait();
            } catch (InterruptedException e) {
                return;
            }
        }
    }
}
