"""Against whom, on what, and how fast: peer.py (make benchmark-peer); RESULTS.md; baseline.json, whose ratios must not fall."""
