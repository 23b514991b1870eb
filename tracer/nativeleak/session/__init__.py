"""The loop of a trace, its targets and its signals, whichever engine observes."""
