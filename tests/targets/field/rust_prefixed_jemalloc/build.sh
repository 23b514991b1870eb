#!/bin/sh
# Builds a Rust program on a static jemalloc whose names have the prefix that Rust's jemalloc crates give it.
# Needs rustc, binutils, libjemalloc-dev.
set -e
source=$(cd "$(dirname "$0")" && pwd)/main.rs
cd "$1"
lib=$(ls /usr/lib/*/libjemalloc_pic.a | head -1)
for s in malloc calloc realloc free posix_memalign aligned_alloc memalign valloc mallocx rallocx xallocx sallocx dallocx \
  sdallocx nallocx mallctl mallctlnametomib mallctlbymib malloc_stats_print malloc_usable_size malloc_message malloc_conf; do
  echo "$s _rjem_$s"
done >names
mkdir objs && cd objs && ar x "$lib" && rm -f jemalloc_cpp*.o
for o in *.o; do objcopy --redefine-syms=../names "$o"; done
ar rcs ../librjem.a *.o && cd .. && rm -rf objs names
rustc --edition 2021 -O -g -C symbol-mangling-version=v0 "$source" -o rustsrv -L . -l static=rjem -l pthread -l dl -l m
