#!/bin/sh
# build.sh FOLDER: for the python3 of PYTHON, with its headers.
python=${PYTHON:-python3}
include=$($python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
suffix=$($python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
cd "$(dirname "$0")" && cp server.py "$1" && gcc -O2 -g -shared -fPIC -I"$include" -o "$1/fastparse$suffix" fastparse.c
