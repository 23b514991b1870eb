#!/bin/sh
# Needs libzstd-jni-java.
cd "$(dirname "$0")" && javac --release 11 -g -nowarn -cp /usr/share/java/zstd-jni.jar -sourcepath .:.. -d "$1" EventArchiver.java
