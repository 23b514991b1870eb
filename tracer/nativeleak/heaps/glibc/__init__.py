"""glibc's malloc, 2.17 and later, found and walked without symbols."""
