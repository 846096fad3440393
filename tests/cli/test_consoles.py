"""No command depends on what a console can show: characters that it lacks are replaced."""

import io
import json

import pytest

from actor_lens import cli

ENCODINGS = ["ascii", "latin-1", "cp936", "cp437", "utf-8"]
TEXT = "怎么 «kill» 👩 —"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "meine «Prüfung» 怎.jsonl"
    row = {"prompt": TEXT, "label": "benign", "split": "test", "category": "ü🙂"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


@pytest.fixture(params=["strict", "surrogateescape"])  # the latter in the locale C
def how(request):
    return request.param


@pytest.fixture
def printed(encoding, how, monkeypatch):
    """What a command prints on a console of some encoding: exit code, output and errors."""

    def run(*words):
        streams = [
            io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
            for errors in (how, "backslashreplace" if how == "surrogateescape" else how)
        ]
        monkeypatch.setattr("sys.stdout", streams[0])
        monkeypatch.setattr("sys.stderr", streams[1])
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        for stream in streams:
            stream.flush()
        assert streams[0].errors == how  # as it was
        return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)

    return run


@pytest.mark.parametrize("how", ["strict"], indirect=True)
def test_models_with_its_guillemets_and_bars(printed, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    code, out, _ = printed("models", "--model", "toy")
    assert code == 0
    assert "residuals" in out.casefold()


def test_help_and_errors(printed):
    for words in ([], ["train"], ["prompts", "check"]):
        code, out, _ = printed(*words, "--help")
        assert code == 0
        assert "usage" in out
    code, _, errors = printed("models", "--model", f"/no/{TEXT}")
    assert code == 2
    assert "kill" in errors
    assert len(errors.splitlines()) == 1
    assert printed("models", f"--{TEXT}")[0] == 2


def test_prompts_of_any_script(printed, prompts):
    code, out, _ = printed("prompts", "check", prompts)
    assert code == 0
    assert "1 prompt" in out
    code, out, _ = printed("prompts", "check", prompts, "--json")
    assert code == 0
    assert prompts.name in json.dumps(json.loads(out), ensure_ascii=False)
