"""Opens untrusted model files in a child process that may do nothing but compute (`validator` is its face)."""
