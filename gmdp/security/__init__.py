"""Keys, passwords, and which connections a broker allows (CURVE and PLAIN of ZMTP; ZAP, RFC 27)."""

from __future__ import annotations

from .keys import generate_keys
from .passwords import hash_password

__all__ = ["generate_keys", "hash_password"]
