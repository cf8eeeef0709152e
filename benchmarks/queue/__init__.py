"""How fast the ledger is, and what that is compared with; see ../README.md."""
