"""Runs on Ray: manifest, pool of model actors, durable parts, commit."""
