"""The floors: what a worker costs that promises nothing."""
