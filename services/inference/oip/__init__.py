"""The Open Inference Protocol: generated stubs, and the servicer that speaks it."""
