"""``python -m quoteshm`` is the ``quoteshm`` command."""

from quoteshm.cli import main

if __name__ == "__main__":
    main(prog_name="quoteshm")
