"""A digest for caches. Imports nothing of ours.

``hashlib`` maps OpenSSL's libcrypto, 3.5 MB of it resident, into a recorder that must stay small; the module beneath it
that has blake2 does without. It is in every CPython since 3.6.
"""

from __future__ import annotations

from _blake2 import blake2b

__all__ = ["blake2b"]
