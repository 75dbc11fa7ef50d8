"""``python -m scail2``: the command line, also where the `scail2` command is not on the path."""

from scail2.cli.app import main

if __name__ == "__main__":
    main()
