"""Against the real vLLM and the real DeepSpeed: make test-engines."""
