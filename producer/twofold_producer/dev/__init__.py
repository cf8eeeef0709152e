"""Everything on one machine: real local servers that end with the process that started them."""
