"""gevent and ZeroMQ: one greenlet owns a socket, and everybody else talks to its mailbox."""
