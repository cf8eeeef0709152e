"""Everything that people send, good and bad: files by name, and what becomes of each."""
