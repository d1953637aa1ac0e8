"""Brokers, workers and clients in virtual time, for tests of handlers and programs."""
