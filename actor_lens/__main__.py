"""``python -m actor_lens``: the same as the ``actor-lens`` command."""

import sys

from actor_lens.cli import main

if __name__ == "__main__":
    sys.exit(main())
