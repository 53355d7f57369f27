"""Everything of one installation in one directory, and back: database or session file, agent files, configuration."""
