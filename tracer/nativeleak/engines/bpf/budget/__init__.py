"""Keeps a trace inside its budgets of CPU time and memory."""
