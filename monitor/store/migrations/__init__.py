"""The database's revisions, oldest first, and how to get from one to the next."""
