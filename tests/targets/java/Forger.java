// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/**
 * A JVM that lies to whoever walks its stacks: its native library (forge.c) allocates on made-up stacks.
 *
 * <p>Usage: {@code Forger LIBRARY}. Prints {@code READY pid}. {@code scribble SEED LOW BYTES MAP SEGMENTS} puts garbage
 * into free room of the code cache; {@code forge SEED FIRST N PLACE...} allocates N blocks of FIRST bytes and more, with
 * return addresses at the places; both answer {@code {}}. {@code honest N} answers with OwnStack's truth of N
 * allocations.
 */
public final class Forger {
    private Forger() {}

    private static native void forge(long seed, int first, int n, long[] places);

    private static native void scribble(long seed, long low, long bytes, long map, long segments);

    private static void honest(int n) {
        for (int i = 0; i < n; i++) {
            OwnStack.allocate();
        }
    }

    /** Serves commands from stdin until it ends. */
    public static void main(String[] arguments) throws Exception {
        System.load(arguments[0]);
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        System.out.println("READY " + ProcessHandle.current().pid());
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            long[] numbers = new long[words.length - 1];
            for (int i = 0; i < numbers.length; i++) {
                numbers[i] = Long.parseLong(words[i + 1]);
            }
            if (words[0].equals("honest")) {
                honest((int) numbers[0]);
                System.out.println(OwnStack.truth());
                continue;
            }
            if (words[0].equals("forge")) {
                long[] places = new long[numbers.length - 3];
                System.arraycopy(numbers, 3, places, 0, places.length);
                forge(numbers[0], (int) numbers[1], (int) numbers[2], places);
            } else {
                scribble(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]);
            }
            System.out.println("{}");
        }
        Runtime.getRuntime().halt(0);
    }
}
