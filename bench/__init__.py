"""The measurements behind the README's figures; how to read them is in bench/README.md."""
