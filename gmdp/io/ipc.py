"""ipc endpoints: sockets in the file system, or abstract ones of Linux.

ZeroMQ checks nothing: it deletes what it finds at the path, and a second bind silently takes the
endpoint over.  So gmdp looks first, and lets ZeroMQ replace a *stale* socket only: one whose
listener is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile

_SCHEME = "ipc://"


def refusal(endpoint: str) -> int:
    """Return 0 if an ``ipc://`` endpoint may be bound; else the error number that says why not.

    ``EEXIST`` means that a file which is not a socket lies at the path.
    """
    path = endpoint.removeprefix(_SCHEME)
    abstract = path.startswith("@")
    if not abstract:
        try:
            # Of a link, too: ZeroMQ would delete the link.
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                return errno.EEXIST
        except FileNotFoundError:
            return 0
        except OSError as error:
            return error.errno or errno.EACCES
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect("\0" + path[1:] if abstract else path)
    except (ConnectionRefusedError, FileNotFoundError):
        return 0  # stale
    except BlockingIOError:  # its backlog is full
        return errno.EADDRINUSE
    except OSError as error:
        # Without permission to connect, the socket may be stale or not; EPROTOTYPE: another kind of socket.
        return errno.EADDRINUSE if error.errno == errno.EPROTOTYPE else error.errno or errno.EADDRINUSE
    return errno.EADDRINUSE


class TemporaryEndpoint:
    """The socket that ``ipc://*`` stands for, in a new folder for temporary files.

    ZeroMQ would make the folder in the working directory, and tell its relative path.  OSError if there is no
    folder for temporary files.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="gmdp-")
        self._path = os.path.join(self._folder, "socket")
        self.endpoint = _SCHEME + self._path

    def remove(self) -> None:
        """Remove the socket and the folder."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)
