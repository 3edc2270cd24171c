"""Against whom, on what, and how fast: peer.py (make benchmark-peer); results in RESULTS.md, what must not fall in baseline.json."""
