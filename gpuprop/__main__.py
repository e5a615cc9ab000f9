"""``python -m gpuprop`` runs the command ``gpuprop``."""

from gpuprop._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
