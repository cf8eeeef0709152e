"""How fast Twofold is, and what that is compared with; see README.md."""
