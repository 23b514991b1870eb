#!/bin/sh
# Needs libglib2.0-dev.
cd "$(dirname "$0")" && gcc -O2 -g -o "$1/slices" slices.c $(pkg-config --cflags --libs glib-2.0)
