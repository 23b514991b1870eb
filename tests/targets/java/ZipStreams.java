// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

/**
 * Holds Deflaters and Inflaters, a known number of each.
 *
 * <p>Prints {@code READY pid}. {@code open D I} makes that many more, {@code end D} ends so many Deflaters, {@code drop I} lets so many Inflaters go without
 * ending them, {@code busy} starts a thread that allocates. Each answers with one line of JSON: those that hold native memory.
 */
public final class ZipStreams {
    private static final List<Deflater> DEFLATERS = new ArrayList<>();
    private static final List<Inflater> INFLATERS = new ArrayList<>();
    private static volatile Object sink;
    private static int dropped;

    private ZipStreams() {}

    private static void churn() {
        while (true) {
            sink = new byte[1 << 12];
        }
    }

    public static void main(String[] arguments) throws Exception {
        // Both classes are loaded before the first line: what is counted is objects.
        new Deflater().end();
        new Inflater().end();
        System.out.println("READY " + ProcessHandle.current().pid());
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "open":
                    for (int i = Integer.parseInt(words[1]); i > 0; i--) {
                        DEFLATERS.add(new Deflater());
                    }
                    for (int i = Integer.parseInt(words[2]); i > 0; i--) {
                        INFLATERS.add(new Inflater());
                    }
                    break;
                case "end":
                    for (int i = Integer.parseInt(words[1]); i > 0; i--) {
                        DEFLATERS.remove(DEFLATERS.size() / 2).end();
                    }
                    break;
                case "drop":
                    for (int i = Integer.parseInt(words[1]); i > 0; i--, dropped++) {
                        INFLATERS.remove(INFLATERS.size() / 2);
                    }
                    break;
                case "busy":
                    Thread thread = new Thread(ZipStreams::churn, "churn");
                    thread.setDaemon(true);
                    thread.start();
                    break;
                default:
                    throw new IllegalArgumentException(line);
            }
            System.out.println("{\"deflaters\": " + DEFLATERS.size() + ", \"inflaters\": " + (INFLATERS.size() + dropped) + "}");
        }
    }
}
