// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Method;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.StringJoiner;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.zip.Deflater;
import java.util.zip.Inflater;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipOutputStream;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;

/**
 * Whatever makes a JVM's stacks difficult, all at once, each in a thread with a long name.
 *
 * <p>Usage: {@code Stress LIBRARY LOAD...} with the loads {@code javac} (where this JVM has a compiler), {@code zip},
 * {@code reflection}, {@code exceptions}, {@code jni} (LIBRARY: built from nofp.c), {@code files}, {@code threads} (each
 * lives for one buffer), {@code virtual} (where this JVM has virtual threads), {@code gc}.
 *
 * <p>Prints {@code READY pid}. {@code go MILLISECONDS} runs all loads so long, each in whole rounds, at least one, and
 * prints the rounds as one line of JSON, as often as it is told; the threads stay until stdin ends, but for the short
 * ones and that of files.
 */
public final class Stress {
    private static final int BUFFER_BYTES = 100_003;
    private static volatile long sink;
    private static volatile boolean isOver;

    private Stress() {}

    interface Load {
        void round() throws Throwable;
    }

    // ---- javac, in memory ----

    private static final class Source extends SimpleJavaFileObject {
        private final String text;

        Source(String name, String text) {
            super(URI.create("string:///" + name + ".java"), Kind.SOURCE);
            this.text = text;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return text;
        }
    }

    private static final class Output extends SimpleJavaFileObject {
        Output(String name, Kind kind) {
            super(URI.create("mem:///" + name.replace('.', '/') + kind.extension), kind);
        }

        @Override
        public OutputStream openOutputStream() {
            return new ByteArrayOutputStream();
        }
    }

    private static final String PROGRAM = "import java.util.*; public class P<T extends Comparable<T>> {"
            + " enum E { A, B } record R(int a, String b) {}"
            + " List<T> sorted(Collection<? extends T> in) { List<T> out = new ArrayList<>(in); Collections.sort(out);"
            + " out.removeIf(x -> x == null); return out; }"
            + " int f(E e) { switch (e) { case A: return 1; default: return new int[] {2, 3}[1]; } } }";

    private static void javac() {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        var files = new ForwardingJavaFileManager<>(compiler.getStandardFileManager(null, null, null)) {
            @Override
            public JavaFileObject getJavaFileForOutput(
                    Location location, String name, JavaFileObject.Kind kind, FileObject sibling) {
                return new Output(name, kind);
            }
        };
        if (!compiler.getTask(null, files, null, null, null, List.of(new Source("P", PROGRAM))).call()) {
            throw new IllegalStateException("javac failed");
        }
    }

    // ---- zip ----

    private static File archive;

    private static void makeArchive() throws IOException {
        archive = File.createTempFile("stress", ".zip");
        archive.deleteOnExit();
        try (ZipOutputStream out = new ZipOutputStream(Files.newOutputStream(archive.toPath()))) {
            for (int i = 0; i < 20; i++) {
                out.putNextEntry(new ZipEntry("entry" + i));
                out.write(noise());
            }
        }
    }

    private static byte[] noise() {
        byte[] bytes = new byte[5003];
        new Random(1).nextBytes(bytes);
        return bytes;
    }

    private static void zip() throws Exception {
        try (ZipFile file = new ZipFile(archive)) {
            for (var entries = file.entries(); entries.hasMoreElements(); ) {
                try (InputStream in = file.getInputStream(entries.nextElement())) {
                    sink += in.readAllBytes().length;
                }
            }
        }
        byte[] packed = new byte[9001];
        Deflater deflater = new Deflater();
        deflater.setInput(noise());
        deflater.finish();
        int n = deflater.deflate(packed);
        deflater.end();
        Inflater inflater = new Inflater();
        inflater.setInput(packed, 0, n);
        sink += inflater.inflate(new byte[9001]);
        inflater.end();
    }

    // ---- Java alone ----

    public static Object buffer(int bytes) {
        return ByteBuffer.allocateDirect(bytes);
    }

    private static void reflection() throws Throwable {
        Method method = Stress.class.getMethod("buffer", int.class);
        MethodType type = MethodType.methodType(Object.class, int.class);
        MethodHandle handle = MethodHandles.lookup().findStatic(Stress.class, "buffer", type);
        for (int i = 0; i < 20; i++) {
            sink += method.invoke(null, 100 + i).hashCode();
            sink += handle.invoke(100 + i).hashCode();
        }
        List<Integer> list = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            list.add(i);
        }
        sink += list.stream().map(x -> buffer(x + 1)).filter(x -> x != null).mapToInt(Object::hashCode).sum();
        list.sort((a, b) -> {
            sink += (a & 15) == 3 ? buffer(9).hashCode() : 0;
            return b - a;
        });
        TreeMap<Integer, Object> map = new TreeMap<>();
        list.forEach(x -> map.computeIfAbsent(x % 7, Stress::buffer));
        Thread.sleep(1);
    }

    private static int unwind(int depth) {
        try {
            if (depth == 0) {
                throw new IllegalArgumentException("expected");
            }
            return unwind(depth - 1) + 1;
        } finally {
            sink += (depth & 3) == 1 ? buffer(33).hashCode() : 0;
        }
    }

    private static void exceptions() throws InterruptedException {
        try {
            unwind(30);
        } catch (IllegalArgumentException e) {
            Thread.sleep(1);
        }
    }

    private static void files() throws Exception {
        Path path = Files.createTempFile("stress", "x");
        Files.write(path, new byte[20_011]);
        sink += Files.readAllBytes(path).length;
        sink += path.toFile().getParentFile().list().length;
        Files.delete(path);
        Thread.sleep(2);
    }

    private static void threads() throws InterruptedException {
        Thread thread = new Thread(() -> sink += buffer(BUFFER_BYTES).hashCode(), "a-short-thread-with-a-long-name");
        thread.start();
        thread.join();
    }

    /** Starts threads by reflection: compiled for Java 11, which has none of them. */
    private static void virtual() throws Exception {
        CountDownLatch done = new CountDownLatch(50);
        Method start = Thread.class.getMethod("startVirtualThread", Runnable.class);
        for (int i = 0; i < 50; i++) {
            start.invoke(null, (Runnable) () -> {
                sleepAndAllocate(5);
                done.countDown();
            });
        }
        done.await();
    }

    private static void sleepAndAllocate(int depth) {
        if (depth > 0) {
            sleepAndAllocate(depth - 1);
            return;
        }
        try {
            Thread.sleep(1);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
        sink += buffer(BUFFER_BYTES).hashCode();
    }

    // ---- native code without frame pointers ----

    private static native void prepare();

    private static native void allocate(int bytes);

    private static native void backAndForth(int bytes);

    private static native void attach(long rounds);

    private static void calledBack(int bytes) {
        deeper(3, bytes);
    }

    private static void deeper(int depth, int bytes) {
        if (depth > 0) {
            deeper(depth - 1, bytes);
        } else {
            allocate(bytes);
        }
    }

    private static void jni() throws InterruptedException {
        for (int i = 0; i < 20; i++) {
            deeper(4, 60_007);
            backAndForth(60_011);
        }
        attach(3);
        Thread.sleep(1);
    }

    // ---- the process ----

    private static Load load(String name, String library) throws Exception {
        switch (name) {
            case "javac":
                return Stress::javac;
            case "zip":
                makeArchive();
                return Stress::zip;
            case "reflection":
                return Stress::reflection;
            case "exceptions":
                return Stress::exceptions;
            case "jni":
                System.load(library);
                prepare();
                return Stress::jni;
            case "files":
                return Stress::files;
            case "threads":
                return Stress::threads;
            case "virtual":
                return Stress::virtual;
            case "gc":
                return () -> {
                    Thread.sleep(101);
                    System.gc();
                };
            default:
                throw new IllegalArgumentException("unknown load " + name);
        }
    }

    private static final class Worker extends Thread {
        private final Load load;
        private final CountDownLatch done;
        long rounds;

        Worker(String name, Load load, CountDownLatch done) {
            super("stress-with-a-long-name-" + name);
            setDaemon(true);
            this.load = load;
            this.done = done;
        }

        @Override
        public void run() {
            try {
                do {
                    load.round();
                    rounds++;
                } while (!isOver);
            } catch (Throwable e) {
                e.printStackTrace();
                Runtime.getRuntime().halt(70);
            }
            done.countDown();
            while (!getName().endsWith("files")) {
                try {
                    Thread.sleep(1_000_000);
                } catch (InterruptedException e) {
                    return;
                }
            }
        }
    }

    private static String runAll(Load[] loads, String[] names, long milliseconds) throws InterruptedException {
        List<Worker> workers = new ArrayList<>();
        CountDownLatch done = new CountDownLatch(loads.length);
        for (int i = 0; i < loads.length; i++) {
            workers.add(new Worker(names[i], loads[i], done));
        }
        isOver = false;
        workers.forEach(Thread::start);
        Thread.sleep(milliseconds);
        isOver = true;
        done.await();
        StringJoiner rounds = new StringJoiner(",");
        workers.forEach(worker -> rounds.add('"' + worker.getName() + "\":" + worker.rounds));
        return "{\"rounds\":{" + rounds + "}}";
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String[] names = Arrays.copyOfRange(arguments, 1, arguments.length);
        Load[] loads = new Load[names.length];
        for (int i = 0; i < names.length; i++) {
            loads[i] = load(names[i], arguments[0]);
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            System.out.println(runAll(loads, names, Long.parseLong(line.split(" ")[1])));
        }
        Runtime.getRuntime().halt(0);
    }
}
