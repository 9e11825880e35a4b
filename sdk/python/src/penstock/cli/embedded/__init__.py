"""What `penstock up` stands on: an embedded PostgreSQL, the services as supervised children, a data folder."""
