#!/bin/sh
cd "$(dirname "$0")" && GO111MODULE=off CGO_ENABLED=0 go build -o "$1/service" main.go
