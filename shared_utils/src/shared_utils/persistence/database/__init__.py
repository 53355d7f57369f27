"""The database: how it is reached and found fit, its pool of connections, its schema, and its errors translated."""
