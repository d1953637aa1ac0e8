"""The search for faults of gmdp itself: scenarios drawn from seeds, many at a time."""
