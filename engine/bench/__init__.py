"""How fast this machine runs the worlds, part by part, beside what its hardware allows."""
