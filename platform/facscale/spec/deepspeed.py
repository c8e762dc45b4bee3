"""The schema of a `deepspeed:` block: the keys of DeepSpeed's configuration that fit this platform.

DeepSpeed itself ignores unknown keys at the top and takes "auto" for a stage. Keys that the rest of the spec sets, that
run code, or that write elsewhere are refused, with what to do instead.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from facscale.spec.block import Block

SET_BY_SPEC = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.batch_size and cluster.workers",
    "gradient_accumulation_steps": "train.accumulate",
    "gradient_clipping": "train.clip",
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "amp": "train.precision",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
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
    "zero_optimization.offload_param": "shards parameters, which stage 3 alone does",
    "zero_optimization.offload_optimizer": "moves the optimizer's state to files or the CPU, from where nothing resumes",
}


class _Sparse(Block):
    """A block that is passed on, and stored, with the keys that were written and no others."""

    @model_serializer(mode="wrap")
    def _keep_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class ZeroOptimization(_Sparse):
    """ZeRO: 1 shards the optimizer's state over the workers, 2 the gradients too."""

    stage: Literal[0, 1, 2] = 0
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    reduce_bucket_size: PositiveInt = 500_000_000
    use_multi_rank_bucket_allreduce: bool = True
    allgather_partitions: bool = True
    allgather_bucket_size: PositiveInt = 500_000_000
    overlap_comm: bool = False
    round_robin_gradients: bool = False
    ignore_unused_parameters: bool = True


class CommsLogger(_Sparse):
    """Logs collective operations."""

    enabled: bool = False
    verbose: bool = False
    prof_all: bool = True
    debug: bool = False


class FlopsProfiler(_Sparse):
    """Prints the operations of one step."""

    enabled: bool = False
    profile_step: PositiveInt = 1
    module_depth: int = Field(default=-1, ge=-1)
    top_modules: PositiveInt = 1
    detailed: bool = True


class DataTypes(_Sparse):
    """Types of what DeepSpeed keeps."""

    grad_accum_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"


class DeepSpeed(_Sparse):
    """The `deepspeed:` block of a job."""

    zero_optimization: ZeroOptimization = ZeroOptimization()
    communication_data_type: Literal["fp32", "bf16", "fp16"] = "fp32"
    prescale_gradients: bool = False
    gradient_predivide_factor: PositiveFloat = 1.0
    sparse_gradients: bool = False
    data_types: DataTypes = DataTypes()
    steps_per_print: PositiveInt = 10
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    dump_state: bool = False
    comms_logger: CommsLogger = CommsLogger()
    flops_profiler: FlopsProfiler = FlopsProfiler()
    disable_allgather: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_reserved(cls, block: Any) -> Any:
        if isinstance(block, dict):
            for key, effect in REFUSED.items():
                outer, _, inner = key.partition(".")
                if outer in block and (not inner or (isinstance(block[outer], dict) and inner in block[outer])):
                    raise ValueError(f"deepspeed.{key} is not allowed: it {effect}")
            for key in block.keys() & SET_BY_SPEC.keys():
                raise ValueError(f"deepspeed.{key} is set from {SET_BY_SPEC[key]}; write it there")
        return block

    @property
    def stage(self) -> int:
        """The stage of ZeRO."""
        return self.zero_optimization.stage
