"""Protocols of the papers that take more than one run: one command each, ``python -m studies.<name> --help``.

They stand above ``train.py``: model and data are those of a config, and arguments they do not know go to its command
line.
"""
