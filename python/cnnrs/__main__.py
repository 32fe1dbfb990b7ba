"""`python -m cnnrs` is the command `cnnrs`."""

from cnnrs.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
