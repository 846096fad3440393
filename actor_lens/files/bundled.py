"""The bundled model and prompts: found in a checkout and in an installed wheel alike."""

from pathlib import Path

from actor_lens.errors import UserError

BUNDLED_MODELS = {"toy": "toy-chat"}
"""Short names of models, and their folders in the data folder."""

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """The folder that holds `prompts/` and `toy-chat/`.

    A wheel carries it inside the package as `_data`; in a checkout it is `data`, beside the
    package.
    """
    packaged = _PACKAGE / "_data"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "data"


def bundled(name: str) -> Path:
    """The path of something bundled, by its name in the data folder.

    Args:
        name: For instance `"toy-chat"` or `"prompts/toy.jsonl"`.

    Raises:
        UserError: If the installation lacks it.
    """
    path = data_folder() / name
    if not path.exists():
        raise UserError(
            f"the bundled data '{name}' is missing (expected at {path}): install actor-lens again, "
            "or restore the checkout's data folder"
        )
    return path
