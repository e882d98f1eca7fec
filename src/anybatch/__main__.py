"""`anybatch`, `python -m anybatch` and `torchrun -m anybatch`."""

import sys


def start() -> None:
    """The command line; where the base installation lacks what it needs, the command that mends it."""
    try:
        from anybatch.cli import main
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "anybatch":
            raise
        why = f"the command line needs {error.name}, which is not installed: pip install 'anybatch[train]'"
        print(f"anybatch: error: {why}", file=sys.stderr)
        raise SystemExit(2) from None
    main()


if __name__ == "__main__":
    start()
