// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.Deflater;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.AbstractHandler;

/**
 * An HTTP server on Jetty that compresses one in so many responses with a Deflater of its own, keeps it and never calls
 * end().
 *
 * <p>Usage: {@code JettyServer EVERY}. Prints {@code READY pid}, then the port; serves until stdin ends. Each line of
 * stdin is answered with the number of Deflaters so far: {@code {"forgotten": ...}}.
 */
public final class JettyServer {
    private static final List<Deflater> FORGOTTEN = new ArrayList<>();
    private static final AtomicLong REQUESTS = new AtomicLong();

    private JettyServer() {}

    private static final class Handler extends AbstractHandler {
        private final int every;

        Handler(int every) {
            this.every = every;
        }

        @Override
        public void handle(String path, Request base, HttpServletRequest request, HttpServletResponse response)
                throws IOException {
            base.setHandled(true);
            byte[] packed = new byte[1024];
            int n = REQUESTS.incrementAndGet() % every == 0 ? compress(packed) : packed.length;
            response.getOutputStream().write(packed, 0, n);
        }

        private int compress(byte[] packed) {
            Deflater deflater = new Deflater();
            synchronized (FORGOTTEN) {
                FORGOTTEN.add(deflater);
            }
            deflater.setInput(new byte[32_768]);
            deflater.finish();
            return deflater.deflate(packed);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Server server = new Server();
        ServerConnector connector = new ServerConnector(server);
        connector.setHost("127.0.0.1");
        server.addConnector(connector);
        server.setHandler(new Handler(Integer.parseInt(arguments[0])));
        server.start();
        System.out.println("READY " + ProcessHandle.current().pid());
        System.out.println(connector.getLocalPort());
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        while (input.readLine() != null) {
            synchronized (FORGOTTEN) {
                System.out.println("{\"forgotten\":" + FORGOTTEN.size() + "}");
            }
        }
        Runtime.getRuntime().halt(0);
    }
}
