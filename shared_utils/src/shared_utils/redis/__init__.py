"""Redis: addresses, connections of every kind, scripts, and explained failures."""
