#!/bin/sh
# Three builds of one program: debug file by .gnu_debuglink, .gnu_debugdata (minidebuginfo), none.
set -e
source=$(cd "$(dirname "$0")" && pwd)/app.cpp
cd "$1"
g++ -O2 -g -o app.full "$source"
mkdir link mini plain
objcopy --only-keep-debug app.full link/app.debug
cp app.full link/app
strip -s link/app
(cd link && objcopy --add-gnu-debuglink=app.debug app)
nm -D app.full --format=posix --defined-only | awk '{print $1}' | sort >dynsyms
nm app.full --format=posix --defined-only | awk '$2 ~ /[TtDd]/ {print $1}' | sort >funcsyms
comm -13 dynsyms funcsyms >keep
objcopy --only-keep-debug app.full mini/dbg
objcopy -S --remove-section .comment --keep-symbols=keep mini/dbg mini/minidbg
xz -k -f mini/minidbg
cp app.full mini/app
strip -s mini/app
objcopy --add-section .gnu_debugdata=mini/minidbg.xz mini/app
cp app.full plain/app
strip -s plain/app
