"""`python -m bot.cli` is `inhouse`."""

from bot.cli import main

if __name__ == "__main__":
    main()
