#!/bin/sh
cd "$(dirname "$0")" && gcc -O2 -g -o "$1/prefork" prefork.c
