"""Refused keys of a `deepspeed:` block: set from other parts of the spec, or able to run code or write elsewhere."""

from __future__ import annotations

from typing import Any

SET_BY_SPEC = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.batch_size and cluster.workers",
    "gradient_accumulation_steps": "train.accumulate",
    "gradient_clipping": "train.clip",
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
}
REFUSED = {  # dotted key: what it does
    "autotuning": "starts programs",
    "comet": "sends to another tracker",
    "compile": "names code; train.compile compiles",
    "csv_monitor": "writes files; MLflow has the metrics",
    "curriculum_learning": "reads files",
    "data_efficiency": "reads files",
    "datastates": "writes files",
    "flops_profiler.output_file": "writes a file; without it, it prints",
    "nebula": "writes files",
    "tensorboard": "writes files; MLflow has the metrics",
    "torch_autocast.lower_precision_safe_modules": "names code",
    "wandb": "sends to another tracker",
}


def refuse_reserved(block: dict[str, Any]) -> None:
    """Raise ValueError for a key that a spec must not set."""
    for key in block.keys() & SET_BY_SPEC.keys():
        raise ValueError(f"deepspeed.{key} is set from {SET_BY_SPEC[key]}; write it there")
    for key, effect in REFUSED.items():
        outer, _, inner = key.partition(".")
        if outer in block and (not inner or (isinstance(block[outer], dict) and inner in block[outer])):
            raise ValueError(f"deepspeed.{key} is not allowed: it {effect}")
