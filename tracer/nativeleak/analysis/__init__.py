"""What a recording says: growth per site, grouping, filters."""
