"""`python -m twofold_producer`, which is `twofold`."""

from twofold_producer.cli import main

if __name__ == "__main__":
    main()
