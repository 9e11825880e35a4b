"""What two or more services share: the server kit, the database, the blobs, the errors."""
