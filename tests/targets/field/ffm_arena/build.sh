#!/bin/sh
# The class runs on JDK 22 or later; an older javac compiles it against stubs of java.lang.foreign.
set -e
cd "$(dirname "$0")"
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
javac -nowarn -d "$room" --patch-module java.base=stubs $(find stubs -name '*.java')
javac -g -nowarn -d "$1" --patch-module java.base="$room" --add-exports java.base/java.lang.foreign=ALL-UNNAMED \
  -sourcepath .:.. ForeignIndex.java
