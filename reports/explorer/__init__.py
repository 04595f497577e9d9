"""The sample explorer: what it holds, how that is packed, and where it lies."""
