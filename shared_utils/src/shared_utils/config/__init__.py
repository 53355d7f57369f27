"""Settings: their sources, their types, and the generated reference."""
