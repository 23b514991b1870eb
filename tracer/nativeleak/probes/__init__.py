"""Which functions of which mapped object are probed."""
