// SPDX-License-Identifier: Apache-2.0

import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.PooledByteBufAllocator;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/**
 * An HTTP server on Netty that forgets to release a pooled direct buffer, in one of so many requests.
 *
 * <p>Usage: {@code NettyServer EVERY}. Prints {@code READY pid}, then the port; serves until stdin ends. Each line of
 * stdin is answered with what Netty's pool says it holds: {@code {"bytes": ..., "count": ..., "forgotten": ...}}, in
 * chunks, and the buffers forgotten so far.
 */
public final class NettyServer {
    private static final int LEAKED_BYTES = 16 << 10;
    private static final int BODY_BYTES = 1024;
    private static final List<ByteBuf> FORGOTTEN = new ArrayList<>();
    private static final AtomicLong REQUESTS = new AtomicLong();

    private NettyServer() {}

    private static final class Handler extends SimpleChannelInboundHandler<FullHttpRequest> {
        private final int every;

        Handler(int every) {
            this.every = every;
        }

        @Override
        protected void channelRead0(ChannelHandlerContext context, FullHttpRequest request) {
            ByteBuf body = context.alloc().directBuffer(2 * BODY_BYTES).writeBytes(new byte[BODY_BYTES]);
            if (REQUESTS.incrementAndGet() % every == 0) {
                forgetBuffer(context);
            }
            var response = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK, body);
            response.headers().setInt("content-length", BODY_BYTES);
            context.writeAndFlush(response);
        }

        private void forgetBuffer(ChannelHandlerContext context) {
            synchronized (FORGOTTEN) {
                FORGOTTEN.add(context.alloc().directBuffer(LEAKED_BYTES));
            }
        }
    }

    private static String truth() {
        var metric = PooledByteBufAllocator.DEFAULT.metric();
        long bytes = metric.usedDirectMemory();
        synchronized (FORGOTTEN) {
            return "{\"bytes\":" + bytes + ",\"count\":" + bytes / metric.chunkSize() + ",\"forgotten\":"
                    + FORGOTTEN.size() + "}";
        }
    }

    public static void main(String[] arguments) throws Exception {
        int every = Integer.parseInt(arguments[0]);
        EventLoopGroup group = new NioEventLoopGroup(2);
        var bound = new ServerBootstrap()
                .group(group)
                .channel(NioServerSocketChannel.class)
                .childHandler(new ChannelInitializer<SocketChannel>() {
                    @Override
                    protected void initChannel(SocketChannel channel) {
                        channel.pipeline()
                                .addLast(new HttpServerCodec(), new HttpObjectAggregator(65_536), new Handler(every));
                    }
                })
                .bind("127.0.0.1", 0)
                .sync();
        System.out.println("READY " + ProcessHandle.current().pid());
        System.out.println(((InetSocketAddress) bound.channel().localAddress()).getPort());
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        while (input.readLine() != null) {
            System.out.println(truth());
        }
        Runtime.getRuntime().halt(0);
    }
}
