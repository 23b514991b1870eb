#!/bin/sh
cd "$(dirname "$0")" && GO111MODULE=off go build -o "$1/gateway" main.go
