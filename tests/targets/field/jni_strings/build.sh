#!/bin/sh
# build.sh FOLDER: the classes and their library, without symbols and frame pointers.
set -e
cd "$(dirname "$0")"
jdk=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
javac --release 11 -g -nowarn -sourcepath .:.. -d "$1" NativeCodec.java
gcc -O2 -fomit-frame-pointer -shared -fPIC -s -I"$jdk/include" -I"$jdk/include/linux" -o "$1/libcodec.so" codec.c
