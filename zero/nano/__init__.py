"""The nano world: synthetic questions, a corpus about them, and tiny base models pretrained on it (in base/; plain/, domain/ and
search/ have read other mixes of it)."""
