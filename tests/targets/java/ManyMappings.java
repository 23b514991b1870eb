// SPDX-License-Identifier: Apache-2.0

import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * A JVM with many mappings: of a small file, every other page of it, so that the kernel cannot merge them.
 *
 * <p>Usage: {@code ManyMappings COUNT [DIRECT]}. It holds DIRECT direct buffers of 1 MiB, 100 threads and 6 GiB of address space more. Prints {@code READY pid},
 * and stays until stdin ends.
 */
public final class ManyMappings {
    private static final int PAGE = 4096;
    private static final int N_THREADS = 100;
    private static final long LARGE = 2L << 30;
    private static final List<MappedByteBuffer> HELD = new ArrayList<>();

    private static final List<ByteBuffer> DIRECT = new ArrayList<>();

    private ManyMappings() {}

    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[0]);
        Path path = Files.createTempFile("mappings", ".bin");
        try (RandomAccessFile file = new RandomAccessFile(path.toFile(), "rw")) {
            file.setLength(LARGE);
            FileChannel channel = file.getChannel();
            for (int i = 0; i < count; i++) {
                MappedByteBuffer buffer = channel.map(FileChannel.MapMode.READ_WRITE, (i % 1000) * 2L * PAGE, PAGE);
                buffer.put(0, (byte) 1);
                HELD.add(buffer);
            }
            for (int i = 0; i < 3; i++) {
                HELD.add(channel.map(FileChannel.MapMode.READ_ONLY, 0, LARGE - PAGE));
            }
        } finally {
            Files.delete(path);
        }
        for (int i = 0; i < (arguments.length > 1 ? Integer.parseInt(arguments[1]) : 0); i++) {
            DIRECT.add(ByteBuffer.allocateDirect(1 << 20));
        }
        for (int i = 0; i < N_THREADS; i++) {
            Thread thread = new Thread(ManyMappings::sleep, "worker-" + i);
            thread.setDaemon(true);
            thread.start();
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        while (System.in.read() >= 0) {}
    }

    private static void sleep() {
        try {
            Thread.sleep(Long.MAX_VALUE);
        } catch (InterruptedException expected) {
            Thread.currentThread().interrupt();
        }
    }
}
