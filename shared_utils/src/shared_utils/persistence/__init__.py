"""Where state lives: sessions now, in a file; each store is a port with one contract suite."""
