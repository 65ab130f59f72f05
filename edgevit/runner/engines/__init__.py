"""One folder an engine: how a bundle is opened and run on it."""
