"""What test_distributed.py starts under torchrun: one small run, in which a process may be told to die."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from training_toys import toy_config, toy_set

from medcore.errors import MedcoreError
from medcore.training import distributed
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def main(out: str, options: dict[str, Any]) -> int:
    from training_toys import tiny

    torch.set_num_threads(1)
    die = options.pop("die", None)
    patches = toy_set()
    sides = {side: patches.where(split=side) for side in ("train", "val", "test")}
    config = toy_config(**options.pop("config", {}))
    if die is not None:
        from medcore.training.state import TrainState

        real = TrainState.take_step

        def step(state: TrainState) -> None:
            if state.step == 5 and distributed.rank() == die:
                os.kill(os.getpid(), signal.SIGKILL)
            real(state)

        TrainState.take_step = step  # type: ignore[method-assign]
    model = tiny(dropout=0.0)
    if options.pop("poison", False):
        real_forward = type(model).forward

        def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
            factor = float("nan") if self.training and distributed.rank() == 1 else 1.0
            return real_forward(self, images) * factor

        type(model).forward = forward  # type: ignore[method-assign]
    try:
        fit(
            model,
            Classification(patches.classes, class_weights="balanced"),
            sides["train"],
            sides["val"],
            config,
            test=sides["test"],
            out=out,
            **options,
        )
    except MedcoreError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def one_of(processes: int, rank: int, port: str, log: str, out: str, options: dict[str, Any]) -> None:
    """One process as torchrun would start it; what it says goes into a file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "toy", "LOCAL_RANK": "0"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "CUDA_VISIBLE_DEVICES": ""}
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(out, options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
