"""What a running HotSpot JVM says of itself: layout for the stack walker, names of Java code, names of threads."""
