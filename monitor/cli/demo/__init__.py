"""`demo`: the whole product on this machine in seconds, with no key; nothing leaves it."""
