"""What outside workers ask for and tell: the service of `worker.proto`, and what is kept of it."""
