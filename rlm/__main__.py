"""`python -m rlm` is the command `rlm`."""

from rlm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
