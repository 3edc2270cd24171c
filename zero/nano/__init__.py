"""The nano world: synthetic questions, a corpus about them, and a tiny base model pretrained on it (weights in base/)."""
