"""Pure tensor functions: no state, no logging, no teacher objects."""
