"""A whole job, from the spec to the table of cross-validated F1: `run.run_job` is what `facscale run jobs/….yaml` does.

Nothing is imported here, so that `check` needs neither Ray nor MLflow.
"""
