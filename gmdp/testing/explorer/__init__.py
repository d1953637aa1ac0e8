"""What searches gmdp itself for faults: scenarios drawn from seeds, many at a time."""
