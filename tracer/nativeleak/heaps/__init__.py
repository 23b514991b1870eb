"""Heaps of allocators, walked from outside: blocks in use, memory retained, sizes. The process is never stopped."""
