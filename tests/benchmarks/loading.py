"""Memory that loading takes, in copies of the weights: ``python -m tests.benchmarks.loading``.

A random Llama of 300 million parameters (float32, 1.2 GB) is saved to a folder and loaded in a
process of its own, whose memory is looked at all the while: by how much it grows at its peak and
in the end, after ``load_model`` and after the TransformerLens twin is made. A page of the file that
is only mapped is memory that the system takes back when it needs it: it is counted apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

SIZES = {
    "300M": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 14},
    "20M": {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8},
}
_STEP = 0.002


class _Watch(threading.Thread):
    """Looks at the memory of this process again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.start_own, self.start_all = _memory()
        self.peak_own, self.peak_all = self.start_own, self.start_all

    def run(self) -> None:
        while not self._over.wait(_STEP):
            self.look()

    def look(self) -> None:
        own, everything = _memory()
        self.peak_own = max(self.peak_own, own)
        self.peak_all = max(self.peak_all, everything)

    def growth(self) -> dict[str, int]:
        """Bytes at the peak and in the end, over those at the start."""
        self._over.set()
        self.join()
        self.look()
        own, everything = _memory()
        return {
            "peak": self.peak_own - self.start_own,
            "end": own - self.start_own,
            "peak_with_mapped_files": self.peak_all - self.start_all,
            "end_with_mapped_files": everything - self.start_all,
        }


def _memory() -> tuple[int, int]:
    """Memory of this process in bytes: its own pages, and those with mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    own, everything = (int(found[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))
    return own, everything


def save_random_llama(size: str, stored: str, folder: str) -> None:
    """A Llama with random weights and a tokenizer of one token a byte."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.support.tiny_models import tiny_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], vocab_size=32_000, num_attention_heads=16)
    LlamaForCausalLM(config).to(getattr(torch, stored)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def measure_here(folder: str, dtype: str) -> dict[str, Any]:
    """Load a model in this process; growth of its memory in copies of the weights."""
    import transformer_lens.model_bridge  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    import actor_lens as al

    al.load_model("toy").bridge  # noqa: B018  # whatever is imported late is imported now
    watch = _Watch()
    watch.start()
    model = al.load_model(folder, dtype=dtype)
    growth = {"load_model": watch.growth()}
    watch = _Watch()
    watch.start()
    _ = model.bridge
    growth["bridge"] = watch.growth()
    weights = sum(parameter.nbytes for parameter in model.hf.parameters())
    copies = {
        part: {name: round(value / weights, 3) for name, value in found.items()}
        for part, found in growth.items()
    }
    block = sum(parameter.nbytes for parameter in model.blocks[0].parameters())
    return {"weights": weights, "block": round(block / weights, 3), "copies": copies}


def measure(size: str, stored: str = "float32", dtype: str = "float32") -> dict[str, Any]:
    """Save a model of a size and load it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "from tests.benchmarks.loading import *; "
            f"save_random_llama({size!r}, {stored!r}, {folder!r})"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        code = (
            "import json; from tests.benchmarks.loading import *; "
            f"print(json.dumps(measure_here({folder!r}, {dtype!r})))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"size": size, "stored": stored, "dtype": dtype, **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="300M", choices=SIZES)
    for name in ("--stored", "--dtype"):
        parser.add_argument(name, default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.size, arguments.stored, arguments.dtype), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
