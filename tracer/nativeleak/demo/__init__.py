"""The demonstration: a leaking program of our own, traced."""
