#!/bin/sh
# Needs the headers of Node (node_api.h).
cd "$(dirname "$0")" && cp server.js "$1" &&
  gcc -O2 -g -shared -fPIC -I"${NODE_INCLUDE:-/usr/include/node}" -o "$1/addon.node" addon.c
