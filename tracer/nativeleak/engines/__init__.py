"""Who observes the target."""
