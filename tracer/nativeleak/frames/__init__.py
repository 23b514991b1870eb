"""What the names of frames tell: who owns an allocation, and which function heads its stack."""
