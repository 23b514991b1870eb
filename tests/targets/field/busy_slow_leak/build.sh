#!/bin/sh
cd "$(dirname "$0")" && javac --release 11 -g -nowarn -sourcepath .:.. -d "$1" RecordService.java
