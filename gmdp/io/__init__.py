"""gevent and ZeroMQ: one greenlet owns a socket, and all other code posts to its mailbox."""
