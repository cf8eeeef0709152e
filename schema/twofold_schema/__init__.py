"""The contract between those who ask for pictures and those who make them.

The job and its states, the errors, the places in storage, the settings, the tables, and the
ledger: the only code that writes job rows. Imports neither the producer nor the worker.
"""
