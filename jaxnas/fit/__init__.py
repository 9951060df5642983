"""The road from a search to a tested network, as functions."""
