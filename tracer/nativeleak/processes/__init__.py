"""All processes of the machine: how much memory each holds, and which one is meant."""
