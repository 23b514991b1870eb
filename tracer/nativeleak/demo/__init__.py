"""The demonstration: traces a leaking program of our own."""
