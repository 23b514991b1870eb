"""One report of many recordings: merged by call path, with host and process as dimensions."""
