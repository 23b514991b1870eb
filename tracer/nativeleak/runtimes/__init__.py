"""Runtimes of managed code in a target: a folder each."""
