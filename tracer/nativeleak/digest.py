"""A digest for caches. Imports nothing of ours.

``hashlib`` loads OpenSSL's libcrypto, which takes 3.5 MB of resident memory; the recorder must stay small. The module
below it has blake2 without OpenSSL, in every CPython since 3.6.
"""

from __future__ import annotations

from _blake2 import blake2b

__all__ = ["blake2b"]
