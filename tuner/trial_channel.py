"""The name by which worker and trial find each other."""

CHANNEL = "TRUELIGHT_TRIAL"
"""Environment variable: JSON with ``folder`` and ``monitor``; ``train.py`` reports to there where it is set."""
