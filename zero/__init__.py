"""R1-Zero-like training, one step at a time. Start reading at zero/loop.py."""
