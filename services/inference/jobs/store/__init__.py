"""The schema `inference` in PostgreSQL: jobs, what is done of them, the files they read, and the blobs."""
