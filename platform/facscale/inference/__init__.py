"""Use of trained methods: exported files, embeddings of data sets, and retrieval of similar frames."""
