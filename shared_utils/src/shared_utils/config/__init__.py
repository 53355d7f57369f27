"""Settings: where they come from, their types, and the reference made of them."""
