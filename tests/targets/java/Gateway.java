// SPDX-License-Identifier: Apache-2.0

import io.netty.buffer.ByteBuf;
import io.netty.buffer.ByteBufAllocator;
import io.netty.buffer.ByteBufAllocatorMetricProvider;
import io.netty.buffer.PooledByteBufAllocator;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;

/**
 * A gateway on Netty's pool that keeps requests for ever, and drops others without release().
 *
 * <p>Usage: {@code Gateway [adaptive]}, with Netty's adaptive allocator instead of the pool. Prints {@code READY pid}. {@code fill CHUNKS KEPT DROPPED SMALL} takes buffers that fill so
 * many chunks and keeps them in a list, then KEPT more of 60,000 bytes, drops DROPPED of 60,000 bytes without release()
 * and keeps SMALL of 200 bytes; it answers with one line of JSON, Netty's own count of the memory in use among it.
 */
public class Gateway {
    static final int BUFFER_BYTES = 60_000;

    static final class Request {
        final ByteBuf body;

        Request(ByteBuf body) {
            this.body = body;
        }
    }

    final List<Object> pending = new ArrayList<>();
    final List<Request> open = new ArrayList<>();
    static ByteBufAllocator allocator = PooledByteBufAllocator.DEFAULT;
    static final Gateway GATEWAY = new Gateway();

    public static void main(String[] args) throws Exception {
        if (args.length > 0) { // not in all versions
            Class<?> adaptive = Class.forName("io.netty.buffer.AdaptiveByteBufAllocator");
            allocator = (ByteBufAllocator) adaptive.getConstructor().newInstance();
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.split(" ");
            int chunkBytes = PooledByteBufAllocator.DEFAULT.metric().chunkSize();
            for (int i = 0; i < Integer.parseInt(words[1]); i++) {
                GATEWAY.pending.add(allocator.directBuffer(chunkBytes, chunkBytes));
            }
            for (int i = 0; i < Integer.parseInt(words[2]); i++) {
                GATEWAY.open.add(new Request(allocator.directBuffer(BUFFER_BYTES)));
            }
            int dropped = Integer.parseInt(words[3]);
            Thread thread = new Thread(() -> {
                for (int i = 0; i < dropped; i++) {
                    allocator.directBuffer(BUFFER_BYTES);
                }
                for (int i = 0; i < 11; i++) {
                    allocator.directBuffer(16 << 10).release(); // stays in this thread's cache until it ends
                }
            }, "io-worker-1");
            thread.start();
            thread.join();
            for (int i = 0; i < Integer.parseInt(words[4]); i++) {
                GATEWAY.open.add(new Request(allocator.directBuffer(200)));
            }
            for (int i = 0; i < 7; i++) {
                allocator.directBuffer(20_000).release(); // in the cache of the thread main
            }
            System.gc();
            long used = ((ByteBufAllocatorMetricProvider) allocator).metric().usedDirectMemory();
            System.out.println("{\"chunk_bytes\": " + chunkBytes + ", \"used\": " + used + "}");
            System.out.flush();
        }
        System.exit(0);
    }
}
