"""A client without a key holds connections of every kind, while others use the service; `./run hold` starts it."""
