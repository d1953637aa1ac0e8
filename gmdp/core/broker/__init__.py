"""The decisions of a broker: what comes of each message, and of time without one."""
