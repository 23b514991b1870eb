// SPDX-License-Identifier: Apache-2.0

import java.io.IOException;
import java.util.zip.Deflater;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.AbstractHandler;

/**
 * An HTTP server on Jetty that compresses each response with a Deflater of its own and never calls end().
 *
 * <p>Prints {@code READY pid}, then the port; serves until stdin ends.
 */
public final class JettyServer {
    private JettyServer() {}

    private static final class Handler extends AbstractHandler {
        @Override
        public void handle(String path, Request base, HttpServletRequest request, HttpServletResponse response)
                throws IOException {
            base.setHandled(true);
            byte[] packed = new byte[1024];
            response.getOutputStream().write(packed, 0, compress(packed));
        }

        private int compress(byte[] packed) {
            Deflater deflater = new Deflater();
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
        server.setHandler(new Handler());
        server.start();
        System.out.println("READY " + ProcessHandle.current().pid());
        System.out.println(connector.getLocalPort());
        while (System.in.read() >= 0) {}
        Runtime.getRuntime().halt(0);
    }
}
