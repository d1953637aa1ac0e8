"""The decisions of a broker: what becomes of each message, and of each moment without one."""
