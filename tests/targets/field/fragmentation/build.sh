#!/bin/sh
cd "$(dirname "$0")" && g++ -O2 -g -o "$1/frag" frag.cpp -pthread
