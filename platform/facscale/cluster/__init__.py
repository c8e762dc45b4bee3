"""Clusters: join the Ray cluster of a job (`ray`), and submit jobs to other clusters (`kubernetes`)."""
