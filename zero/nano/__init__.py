"""The nano world: synthetic questions, a corpus about them, and tiny base models pretrained on it (base/; those in plain/, domain/
and search/ were pretrained on other mixes)."""
