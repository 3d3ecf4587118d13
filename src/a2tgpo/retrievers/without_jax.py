"""bm25s without JAX, which it would start for the best of a few scores, and which takes three quarters of a GPU."""

import sys

_jax = sys.modules.get("jax")
sys.modules["jax"] = None  # type: ignore[assignment]  # an import of it fails
try:
    import bm25s
    from bm25s.tokenization import Tokenized
finally:
    del sys.modules["jax"]
    if _jax is not None:
        sys.modules["jax"] = _jax

__all__ = ["Tokenized", "bm25s"]
