"""The fixed benchmark of the built-in world: paths, measurements, and the table that they fill."""
