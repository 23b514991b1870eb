#!/bin/sh
# build.sh FOLDER: shop, optimised and not.
cd "$(dirname "$0")" && g++ -O2 -g -o "$1/shop" shop.cpp && g++ -O0 -g -o "$1/shop_O0" shop.cpp
