"""The decisions of clients and workers: their connections, calls and sessions."""
