"""Analyses a recording: growth per site, grouping, filters."""
