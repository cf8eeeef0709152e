"""The asking side: submit jobs, follow them, keep the ledger moving."""
