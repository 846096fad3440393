"""The process of one task: ``python -m tests.benchmarks.process``.

Reads a job as JSON from the standard input, writes the result as JSON to the standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.job import Job


def main() -> None:
    """Run the job on the standard input."""
    job = Job.from_json(sys.stdin.read())
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not get between the lines
    measured = run(job)
    with os.fdopen(output, "w", encoding="utf-8") as file:
        json.dump(measured, file)


def run(job: Job) -> dict[str, Any]:
    """Load model and prompts, run the task, measure its memory."""
    import torch

    from actor_lens.models.chat_model import load_model
    from actor_lens.prompts.loading import load_prompts
    from tests.benchmarks.tasks import TASKS

    torch.set_num_threads(job.threads)
    _warm_up(job.model.get("device", "auto"))
    before = resident_bytes()
    model = load_model(**job.model)
    prompts = load_prompts(job.prompts)
    if job.task == "collection":
        _ = model.bridge  # making it takes seconds, once
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    reset_peak()
    loaded = resident_bytes()
    measured = TASKS[job.task](model, prompts, job.settings)
    peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else peak_bytes() - before
    state = measured.pop("state", None)
    if state is not None:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in state.items()}, job.state_file)
    memory = {"peak": peak, "before_model": before, "loaded": loaded - before}
    return {**measured, "memory": memory}


def _warm_up(device: str) -> None:
    """Let libraries load and allocate what they keep, with the small bundled model."""
    import torch

    from actor_lens.models.chat_model import load_model

    hf = load_model("toy", device=device).hf.requires_grad_(True)
    optimizer = torch.optim.AdamW(hf.parameters(), fused=True)
    hf(input_ids=torch.zeros(2, 4, dtype=torch.long, device=hf.device)).logits.sum().backward()
    optimizer.step()


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Most memory that this process had in use since ``reset_peak``, or ever on macOS."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    """Let ``peak_bytes`` count from now on."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
