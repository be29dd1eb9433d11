"""The world: model, codec, state. Knows no window and no network."""
