"""Everything on one machine: real local servers that end with the process that started them."""

#: Random weights in the real model's classes: proves the way, makes no good picture.
STAND_IN = "stand-in"
