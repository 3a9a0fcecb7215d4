"""Pure functions on tensors and arrays: no Lightning, no files, no state."""
