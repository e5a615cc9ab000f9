"""``python -m gpuprop``: the same as the command ``gpuprop``."""

from gpuprop._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
