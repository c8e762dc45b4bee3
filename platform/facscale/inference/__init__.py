"""Trained methods at work: exported files, embeddings of frames, and retrieval by them."""
