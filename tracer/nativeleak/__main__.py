"""``python -m nativeleak``."""

from nativeleak.cli.main import main

if __name__ == "__main__":
    main()
