"""Native stacks without frame pointers: call-site tables from .eh_frame, and what they are checked by."""
