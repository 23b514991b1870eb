// SPDX-License-Identifier: Apache-2.0

import io.netty.buffer.ByteBuf;
import io.netty.buffer.PooledByteBufAllocator;
import java.util.ArrayList;
import java.util.List;

/**
 * A server's pool that holds so many chunks of 16 MiB, each with one buffer in it that nobody releases.
 *
 * <p>Usage: {@code NettyChunks CHUNKS}. Prints {@code READY pid}, and stays until stdin ends. Each chunk has some pages
 * written, so that it is in memory in part, as chunks of a real pool are.
 */
public final class NettyChunks {
    private static final int BUFFER_BYTES = 9 << 20; // two do not fit into one chunk
    private static final int WRITTEN_BYTES = 512 << 10;
    private static final List<ByteBuf> HELD = new ArrayList<>();

    private NettyChunks() {}

    public static void main(String[] arguments) throws Exception {
        for (int i = 0; i < Integer.parseInt(arguments[0]); i++) {
            ByteBuf buffer = PooledByteBufAllocator.DEFAULT.directBuffer(BUFFER_BYTES);
            buffer.writeBytes(new byte[WRITTEN_BYTES]);
            HELD.add(buffer);
        }
        System.out.println("READY " + ProcessHandle.current().pid());
        while (System.in.read() >= 0) {}
    }
}
