"""The nano world: synthetic questions, a corpus about them, and a tiny base model pretrained on it (in base/)."""
