"""The Java heap from outside: how full it is, and which of its objects hold native memory."""
