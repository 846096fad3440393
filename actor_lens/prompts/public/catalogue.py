"""The public prompt sets: where each is, its licence, and which label its rows get and why.

None of them is bundled. A row becomes a prompt by the set's `read` (`benchmark_rows`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from actor_lens.errors import UserError
from actor_lens.prompts.public.rows import (
    Reader,
    Twins,
    all_are,
    jailbreakbench_twins,
    read_alpaca,
    read_beavertails,
    read_harmbench,
    read_hex_phi,
    read_jailbreakbench,
    read_phtest,
    read_sorry_bench,
    read_ultrachat,
    read_xstest,
    sorry_bench_twins,
    xstest_twins,
)
from actor_lens.prompts.rows import Label, shown


@dataclass(frozen=True)
class BenchmarkSet:
    """One public prompt set.

    Attributes:
        name: What it is called here.
        title: What it is called by its authors.
        labels: The labels that its rows get.
        why: Why they get them.
        licence: As its authors state it.
        citation: Who made it.
        page: Where it is downloaded, and where a gated one is asked for.
        columns: Columns of which one must be there, as they name the prompt.
        read: Makes a prompt of a row.
        hub: Dataset on the hub; "" where it is none.
        config: Its configuration there.
        splits: The splits taken there; empty for all.
        url: A file elsewhere, with `{revision}` in it, used where there is no hub dataset that is
            open to all.
        files: Patterns of its files in a downloaded folder.
        rows: How many rows it has; None where this differs between versions.
        gated: Whether the hub asks for a licence click.
        header: Whether its CSV files begin with the names of the columns.
        usual: Prompts a label that are drawn where no limit is given; None for all.
        first_rows: How many rows of a split are read, streamed, of a set too large to fetch whole;
            None for all.
        repeats: Whether prompts occur several times as a rule, so that it is no fault.
        kinds: Kinds of row that are left out unless asked for, as `include` or NAME+KIND.
        twins: Which rows must lie on one side of a split; None where near-duplicates are all.
        notes: What one has to know.
    """

    name: str
    title: str
    labels: tuple[Label, ...]
    why: str
    licence: str
    citation: str
    page: str
    columns: tuple[str, ...]
    read: Reader
    hub: str = ""
    config: str | None = None
    splits: tuple[str, ...] = ()
    url: str = ""
    files: tuple[str, ...] = ()
    rows: int | None = None
    gated: bool = False
    header: bool = True
    usual: int | None = None
    first_rows: int | None = None
    repeats: bool = False
    kinds: tuple[str, ...] = ()
    twins: Twins | None = None
    notes: str = ""


_HUB = "https://huggingface.co/datasets/"
_RAW = "https://raw.githubusercontent.com/"


def _or_bench(
    name: str, config: str, rows: int | None, label: Label, why: str, usual: int | None = None
) -> BenchmarkSet:
    return BenchmarkSet(
        name=name,
        title=f"OR-Bench, {config.removeprefix('or-bench-')}",
        labels=(label,),
        why=why,
        licence="CC-BY-4.0",
        citation="Cui, Chiang, Stoica, Hsieh: OR-Bench, ICML 2025, arXiv 2405.20947",
        page=f"{_HUB}bench-llm/or-bench",
        columns=("prompt",),
        read=all_are(label, "prompt", category=("category",)),
        hub="bench-llm/or-bench",
        config=config,
        files=(f"*{config}*",),
        rows=rows,
        usual=usual,
        notes="Written and filtered by language models: some labels are disputed.",
    )


BENCHMARKS: tuple[BenchmarkSet, ...] = (
    BenchmarkSet(
        name="xstest",
        title="XSTest",
        labels=("pseudo_harmful", "harmful"),
        why="column label: safe prompts only look harmful, unsafe ones are their contrasts; files "
        "without it: types that start with contrast_ are unsafe",
        licence="CC-BY-4.0",
        citation="Roettger et al.: XSTest, NAACL 2024, arXiv 2308.01263",
        page=f"{_HUB}Paul/XSTest",
        columns=("prompt",),
        read=read_xstest,
        hub="Paul/XSTest",
        files=("*xstest*prompts*.csv",),
        rows=450,
        twins=xstest_twins,
        notes="Twins: row p of each block of a family of types (safe blocks and their contrast_ "
        "block); they never lie on two sides of a split.",
    ),
    _or_bench(
        "or-bench-80k",
        "or-bench-80k",
        None,
        "pseudo_harmful",
        "the whole set was made to look harmful and was judged harmless",
        usual=2000,
    ),
    _or_bench(
        "or-bench-hard",
        "or-bench-hard-1k",
        1319,
        "pseudo_harmful",
        "the prompts of the 80k that strong models refuse most, judged harmless",
    ),
    _or_bench(
        "or-bench-toxic", "or-bench-toxic", 655, "harmful", "the prompts that were judged harmful"
    ),
    BenchmarkSet(
        name="phtest",
        title="PHTest",
        labels=("pseudo_harmful",),
        why="column Harmfulness: harmless rows only look harmful; controversial ones, on which "
        "people differ, are left out unless asked for: phtest+controversial",
        licence="MIT",
        citation="An et al.: Automatic Pseudo-Harmful Prompt Generation, COLM 2024, "
        "arXiv 2409.00598",
        page=f"{_HUB}furonghuang-lab/PHTest",
        columns=("Request", "prompt"),
        read=read_phtest,
        hub="furonghuang-lab/PHTest",
        files=("*PHTest*",),
        rows=3269,
        kinds=("controversial",),
    ),
    BenchmarkSet(
        name="oktest",
        title="OKTest",
        labels=("pseudo_harmful",),
        why="safe questions that hold words which sound harmful",
        licence="none stated",
        citation="Shi et al.: Navigating the OverKill in Large Language Models, ACL 2024, "
        "arXiv 2401.17633",
        page="https://github.com/InvokerStark/OverKill",
        columns=("prompt",),
        read=all_are("pseudo_harmful", "prompt"),
        url=f"{_RAW}InvokerStark/OverKill/{{revision}}/data/OKTest.csv",
        files=("*OKTest*",),
        rows=300,
        notes="No licence is stated: ask the authors before you pass it on. The newline at the end "
        "of each value is taken off.",
    ),
    BenchmarkSet(
        name="falsereject",
        title="FalseReject",
        labels=("pseudo_harmful",),
        why="benign prompts that look risky; the test part is checked by people",
        licence="CC-BY-NC-4.0",
        citation="Zhang et al.: FalseReject, 2025, arXiv 2505.08054",
        page=f"{_HUB}AmazonScience/FalseReject",
        columns=("prompt",),
        read=all_are("pseudo_harmful", "prompt", category=("category_text", "category")),
        hub="AmazonScience/FalseReject",
        splits=("test",),
        files=("test*.jsonl",),
        rows=1187,
        notes="The 14,624 synthetic training rows: hub_split=train.",
    ),
    BenchmarkSet(
        name="scope",
        title="SCOPE (WokeyTalky)",
        labels=("pseudo_harmful",),
        why="made from harmful prompts by keeping what triggers a refusal and removing the harm",
        licence="see the page",
        citation="Zeng, Nguyen, Li, Jia: SCOPE, 2024, openreview 72H3w4LHXM",
        page=f"{_HUB}redslabvt/WokeyTalky",
        columns=("woke_prompt", "woke", "prompt", "instruction", "text"),
        read=all_are(
            "pseudo_harmful",
            "woke_prompt",
            "woke",
            "prompt",
            "instruction",
            "text",
            category=("category", "source"),
        ),
        hub="redslabvt/WokeyTalky",
        files=("*.csv", "*.json", "*.jsonl", "*.parquet"),
        notes="Not tried on the real set: the columns are guesses, and an error lists those found. "
        "SCOPE starts from HEx-PHI and AdvBench: look at the overlaps.",
    ),
    BenchmarkSet(
        name="advbench",
        title="AdvBench, harmful behaviours",
        labels=("harmful",),
        why="every row asks for something harmful",
        licence="MIT",
        citation="Zou et al.: Universal and Transferable Adversarial Attacks, 2023, "
        "arXiv 2307.15043",
        page="https://github.com/llm-attacks/llm-attacks/tree/main/data/advbench",
        columns=("goal", "prompt"),
        read=all_are("harmful", "goal", "prompt"),
        url=f"{_RAW}llm-attacks/llm-attacks/{{revision}}/data/advbench/harmful_behaviors.csv",
        files=("*harmful_behaviors*", "*AdvBench*", "data/*"),
        rows=520,
        notes="The copy on the hub (walledai/AdvBench) is gated, this one is not. Overlaps with "
        "JailbreakBench and StrongREJECT; many rows resemble each other.",
    ),
    BenchmarkSet(
        name="harmbench",
        title="HarmBench, text behaviours",
        labels=("harmful",),
        why="every row asks for something harmful; the category copyright for protected text",
        licence="MIT",
        citation="Mazeika et al.: HarmBench, ICML 2024, arXiv 2402.04249",
        page="https://github.com/centerforaisafety/HarmBench/tree/main/data/behavior_datasets",
        columns=("Behavior",),
        read=read_harmbench,
        url=f"{_RAW}centerforaisafety/HarmBench/{{revision}}/data/behavior_datasets/"
        "harmbench_behaviors_text_all.csv",
        files=("*harmbench_behaviors_text_all*", "*harmbench_behaviors_text*"),
        rows=400,
        notes="ContextString is put before the behaviour, an empty line between.",
    ),
    BenchmarkSet(
        name="jailbreakbench",
        title="JailbreakBench, JBB-Behaviors",
        labels=("harmful", "pseudo_harmful"),
        why="harmful behaviours, and for each a benign one on the same subject, which only looks "
        "harmful",
        licence="MIT",
        citation="Chao et al.: JailbreakBench, NeurIPS 2024, arXiv 2404.01318",
        page=f"{_HUB}JailbreakBench/JBB-Behaviors",
        columns=("Goal",),
        read=read_jailbreakbench,
        hub="JailbreakBench/JBB-Behaviors",
        config="behaviors",
        splits=("harmful", "benign"),
        files=("*harmful-behaviors*", "*benign-behaviors*"),
        rows=200,
        twins=jailbreakbench_twins,
        notes="Twins: equal Index. Holds rows of AdvBench and of HarmBench.",
    ),
    BenchmarkSet(
        name="maliciousinstruct",
        title="MaliciousInstruct",
        labels=("harmful",),
        why="every line asks for something harmful",
        licence="unknown",
        citation="Huang et al.: Catastrophic Jailbreak via Exploiting Generation, ICLR 2024, "
        "arXiv 2310.06987",
        page="https://github.com/Princeton-SysML/Jailbreak_LLM/tree/main/data",
        columns=("prompt", "text"),
        read=all_are("harmful", "prompt", "text"),
        url=f"{_RAW}Princeton-SysML/Jailbreak_LLM/{{revision}}/data/MaliciousInstruct.txt",
        files=("*MaliciousInstruct*",),
        rows=100,
        notes="A text file with a prompt a line.",
    ),
    BenchmarkSet(
        name="strongreject",
        title="StrongREJECT",
        labels=("harmful",),
        why="every row asks for something harmful",
        licence="MIT",
        citation="Souly et al.: A StrongREJECT for Empty Jailbreaks, NeurIPS 2024, "
        "arXiv 2402.10260",
        page="https://github.com/alexandrasouly/strongreject/tree/main/strongreject_dataset",
        columns=("forbidden_prompt", "prompt"),
        read=all_are("harmful", "forbidden_prompt", "prompt", category=("category",)),
        url=f"{_RAW}alexandrasouly/strongreject/{{revision}}/strongreject_dataset/"
        "strongreject_dataset.csv",
        files=("*strongreject*",),
        rows=313,
        notes="Holds rows of AdvBench.",
    ),
    BenchmarkSet(
        name="hex-phi",
        title="HEx-PHI",
        labels=("harmful",),
        why="every row asks for something that model providers forbid",
        licence="own terms, to be accepted on the page",
        citation="Qi et al.: Fine-tuning Aligned Language Models Compromises Safety, ICLR 2024, "
        "arXiv 2310.03693",
        page=f"{_HUB}LLM-Tuning-Safety/HEx-PHI",
        columns=(),
        read=read_hex_phi,
        hub="LLM-Tuning-Safety/HEx-PHI",
        files=("category_*.csv", "*hex*phi*"),
        rows=300,
        gated=True,
        header=False,
        notes="The files have no header: a reader that expects one loses the first prompt of each.",
    ),
    BenchmarkSet(
        name="beavertails",
        title="BeaverTails",
        labels=("harmful", "benign"),
        why="is_safe judges the answer, not the prompt: a prompt with an unsafe answer is harmful; "
        "prompts with safe answers only are left out unless asked for (beavertails+safe): benign",
        licence="CC-BY-NC-4.0",
        citation="Ji et al.: BeaverTails, NeurIPS 2023, arXiv 2307.04657",
        page=f"{_HUB}PKU-Alignment/BeaverTails",
        columns=("prompt",),
        read=read_beavertails,
        hub="PKU-Alignment/BeaverTails",
        splits=("30k_train",),
        files=("round0/30k/train*", "*30k*train*"),
        usual=1000,
        first_rows=30_000,
        repeats=True,
        kinds=("safe",),
        notes="A prompt occurs with several answers; it is kept once.",
    ),
    BenchmarkSet(
        name="sorry-bench",
        title="SORRY-Bench 2025-03",
        labels=("harmful",),
        why="every row asks for something unsafe; rewritten versions of the base prompts are left "
        "out unless asked for by prompt_style, such as sorry-bench+slang",
        licence="own terms, to be accepted on the page",
        citation="Xie et al.: SORRY-Bench, ICLR 2025, arXiv 2406.14598",
        page=f"{_HUB}sorry-bench/sorry-bench-202503",
        columns=("turns", "prompt"),
        read=read_sorry_bench,
        hub="sorry-bench/sorry-bench-202503",
        files=("*question*.jsonl", "*sorry*bench*"),
        gated=True,
        kinds=("any prompt_style other than base",),
        twins=sorry_bench_twins,
        notes="Twins: the styles of one question_id.",
    ),
    BenchmarkSet(
        name="ultrachat",
        title="UltraChat 200k",
        labels=("benign",),
        why="ordinary conversations; the first thing the user says",
        licence="MIT",
        citation="Ding et al.: UltraChat, EMNLP 2023, arXiv 2305.14233",
        page=f"{_HUB}HuggingFaceH4/ultrachat_200k",
        columns=("prompt", "messages"),
        read=read_ultrachat,
        hub="HuggingFaceH4/ultrachat_200k",
        splits=("train_sft",),
        files=("*train_sft*",),
        usual=1000,
        first_rows=10_000,
        repeats=True,
        notes="The prompts are drawn from the first 10,000 conversations, so that the rest need "
        "not be fetched. Not filtered for harm.",
    ),
    BenchmarkSet(
        name="alpaca",
        title="Alpaca",
        labels=("benign",),
        why="everyday instructions; the input, where there is one, follows after an empty line",
        licence="CC-BY-NC-4.0",
        citation="Taori et al.: Stanford Alpaca, 2023",
        page=f"{_HUB}tatsu-lab/alpaca",
        columns=("instruction",),
        read=read_alpaca,
        hub="tatsu-lab/alpaca",
        files=("*train*", "*alpaca*"),
        rows=52_002,
        usual=1000,
        repeats=True,
        notes="Made by a language model; not filtered for harm.",
    ),
)

_OTHER_NAMES = {
    "wokeytalky": "scope",
    "or-bench": "or-bench-80k",
    "or-bench-hard-1k": "or-bench-hard",
    "jbb": "jailbreakbench",
    "hexphi": "hex-phi",
    "sorrybench": "sorry-bench",
    "jbb-behaviors": "jailbreakbench",
    "malicious-instruct": "maliciousinstruct",
}
_BY_NAME = {each.name: each for each in BENCHMARKS}


def find_benchmark(name: str) -> BenchmarkSet | None:
    """The set of that name, whatever its case, with `_` or spaces for `-`; None for none."""
    plain = plain_name(name)
    return _BY_NAME.get(_OTHER_NAMES.get(plain, plain))


def plain_name(name: str) -> str:
    """A name in small letters, with `-` for `_` and spaces."""
    return name.strip().casefold().replace("_", "-").replace(" ", "-")


def known_benchmark(name: str) -> BenchmarkSet:
    """The set of that name.

    Raises:
        UserError: If there is none; the message names the nearest and lists all.
    """
    found = find_benchmark(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name.casefold(), [*_BY_NAME, *_OTHER_NAMES], n=1)
    meant = f", did you mean {near[0]}?" if near else ";"
    raise UserError(f"no public prompt set {shown(name)}{meant} there are: {', '.join(_BY_NAME)}")
