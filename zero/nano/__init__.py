"""The nano world: synthetic questions, a corpus about them, and tiny base models pretrained on it (base/; those in plain/, domain/,
search/ and code/ were pretrained on other mixes)."""
