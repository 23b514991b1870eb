"""A trace goes on, whoever observes: its loop, its targets, its signals."""
