"""Running: the engine that moves tokens, and the functions that people call."""
